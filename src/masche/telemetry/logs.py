"""Log lines that cannot hurt: one record is one line, whatever stands in it; no secret; and nobody waits for the disk.

``configure`` once per program, then ``logging.getLogger("masche....")`` and ``say``. JSON for machines; for a person at
a terminal a short coloured form, without colours when NO_COLOR is set (no-color.org).
"""

import json
import logging
import os
import re
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TextIO, cast

WAITING = 10_000
"""So many lines may wait for a slow reader; further ones are dropped and counted."""

HIDDEN = "Secret(...)"

_SECRET_KEY = re.compile(r"token|secret|passw|private|credential|authorization|cookie|proof", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=#)[0-9a-f]{64}\.[^\s\"']+"  # the fingerprint and token of a join string
    r"|(?<=earer )[A-Za-z0-9._~+/=-]+",
    re.DOTALL,
)
_COLOURS = {"debug": "2", "info": "36", "warning": "33", "error": "31", "critical": "1;31"}
_FIELDS = "masche_fields"


def say(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Log a sentence with named values; ``logging.INFO`` and its like are the levels."""
    logger.log(level, "%s", message, extra={_FIELDS: fields}, stacklevel=2)


def configure(stream: TextIO, *, level: int = logging.INFO, as_json: bool | None = None) -> "Lines":
    """Send everything that is logged under ``masche`` to ``stream`` and return the handler, to be closed at the end.

    ``as_json`` None means: unless ``stream`` is a terminal.
    """
    is_terminal = stream.isatty()
    human = is_terminal if as_json is None else not as_json
    has_colour = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    lines = Lines(stream)
    lines.setFormatter(Human(has_colour=has_colour) if human else Json())
    logger = logging.getLogger("masche")
    logger.handlers = [lines]
    logger.setLevel(level)
    logger.propagate = False
    return lines


class Lines(logging.Handler):
    """Hands lines to a thread that writes them; what it cannot follow is dropped and counted in ``dropped``."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.dropped = 0
        self._stream = stream
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line; never waits and never raises."""
        if self._waiting.qsize() >= WAITING:
            self.dropped += 1
            return
        try:
            self._waiting.put(self.format(record))
        except Exception:  # noqa: BLE001 - a value that cannot be printed must not take the caller down
            self.dropped += 1

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._waiting.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # the disk is full, the reader is gone, or the stream is closed
                self.dropped += 1

    def close(self) -> None:
        """Write what waits, for a second at most, and end the thread."""
        self._waiting.put(None)
        self._writer.join(timeout=1.0)
        with suppress(OSError, ValueError):  # as in _write
            self._stream.flush()
        super().close()


class Json(logging.Formatter):
    """One JSON object per line, plain ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record: at, level, logger, message, the named values, and the error with its traceback."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "at": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _hide(record.getMessage()),
        }
        for key, value in _fields(record).items():
            line[key if key not in line else f"{key}_"] = value
        if error := _error(record):
            line["error"] = error
        return json.dumps(line).replace("\x7f", "\\u007f")


class Human(logging.Formatter):
    """``12:00:01 warning control  sentence  key=value``, one line (a traceback follows indented)."""

    def __init__(self, *, has_colour: bool) -> None:
        super().__init__()
        self._has_colour = has_colour

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        level = record.levelname.lower()
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")  # local time: a person reads it
        fields = " ".join(f"{key}={printable(str(value))}" for key, value in _fields(record).items())
        parts = (
            self._paint("2", at),
            self._paint(_COLOURS.get(level, "0"), f"{level:7}"),
            self._paint("2", record.name.removeprefix("masche.")),
            printable(_hide(record.getMessage())),
            self._paint("2", fields),
        )
        error = "".join(f"\n    {printable(line)}" for line in _error(record).splitlines())
        return " ".join(part for part in parts if part) + error

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._has_colour and text else text


def printable(text: str) -> str:
    """The text with everything that could move a cursor or end a line written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = cast("Mapping[str, object]", getattr(record, _FIELDS, {}))
    return {key: HIDDEN if _SECRET_KEY.search(key) else _plain(value) for key, value in fields.items()}


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case bytes() | bytearray():
            return f"<{len(value)} bytes>"
        case _:
            return _hide(str(value))


def _error(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return _hide("".join(traceback.format_exception(record.exc_info[1])).rstrip())


def _hide(text: str) -> str:
    return _SECRET_TEXT.sub(HIDDEN, text)
