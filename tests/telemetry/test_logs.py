"""One record is one line, no secret is in it, and a broken disk hurts nobody."""

import errno
import io
import json
import logging
from collections.abc import Iterator

import pytest

from masche.telemetry import logs
from masche.telemetry.logs import Lines, configure, printable, say

LOGGER = logging.getLogger("masche.control")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    root = logging.getLogger("masche")
    before = (root.handlers, root.level, root.propagate)
    yield
    root.handlers, root.level, root.propagate = before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(stream: io.StringIO, lines: Lines) -> list[str]:
    lines.close()
    return stream.getvalue().splitlines()


def test_a_record_is_one_json_object_on_one_line():
    stream = io.StringIO()
    lines = configure(stream)
    say(LOGGER, logging.WARNING, "proxy \x1b[31m\n{fake}", name="a\nb\u2028c\x9b", count=3, message="kept")
    (line,) = written(stream, lines)
    assert line.isascii()
    assert line.isprintable()
    record = json.loads(line)
    assert record["message"] == "proxy \x1b[31m\n{fake}"
    assert record["name"] == "a\nb\u2028c\x9b"
    assert (record["level"], record["logger"], record["count"]) == ("warning", "masche.control", 3)
    assert record["message_"] == "kept"
    assert record["at"].endswith("Z")


def test_an_error_brings_its_traceback_in_the_same_line():
    stream = io.StringIO()
    lines = configure(stream)
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        LOGGER.exception("it failed")
    (line,) = written(stream, lines)
    assert "ValueError: no\nsuch thing" in json.loads(line)["error"]


TOKEN = "masche://10.0.0.1:15012#" + "ab" * 32 + ".s3cr3t-part"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_not_written(as_json: bool):
    stream = io.StringIO()
    lines = configure(stream, as_json=as_json)
    say(LOGGER, logging.INFO, f"join with {TOKEN}", token="t0p", api_token="t0p", data=b"t0p", text=KEY)
    say(LOGGER, logging.INFO, "header", header="Authorization: Bearer abc.def-ghi", key=KEY.partition("-----END")[0])
    text = "".join(written(stream, lines))
    for secret in ("s3cr3t", "t0p", "MHcCAQEE", "abc.def"):
        assert secret not in text
    assert "10.0.0.1:15012" in text
    assert "Secret(...)" in text


def test_a_person_gets_a_short_line_with_colours_and_no_foreign_escapes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    lines = configure(stream)
    say(LOGGER, logging.WARNING, "machine \x1b[2J is lost", machine="m\n1")
    (line,) = written(stream, lines)
    assert "\x1b[33mwarning\x1b[0m" in line
    assert "machine \\x1b[2J is lost" in line
    assert "machine=m\\n1" in line


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    lines = configure(stream)
    say(LOGGER, logging.INFO, "hello")
    (line,) = written(stream, lines)
    assert line[8:] == " info    control hello"


def test_a_full_disk_costs_lines_and_nothing_else():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    lines = configure(Full())
    for _ in range(5):
        say(LOGGER, logging.INFO, "hello")
    lines.close()
    assert lines.dropped == 5


def test_a_slow_reader_costs_lines_and_nobody_waits(monkeypatch: pytest.MonkeyPatch):
    from threading import Event

    go_on = Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            assert go_on.wait(10)
            return super().write(text)

    monkeypatch.setattr(logs, "WAITING", 10)
    stream = Slow()
    lines = configure(stream)
    for n in range(100):
        say(LOGGER, logging.INFO, f"line {n}")
    go_on.set()
    kept = written(stream, lines)
    assert 10 <= len(kept) <= 12
    assert lines.dropped == 100 - len(kept)


def test_what_cannot_be_printed_is_dropped():
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    stream = io.StringIO()
    lines = configure(stream)
    say(LOGGER, logging.INFO, "hello", thing=Broken())
    assert written(stream, lines) == []
    assert lines.dropped == 1


def test_printable_keeps_what_people_write():
    assert printable("Grüße, 世界") == "Grüße, 世界"
    assert printable("\u202eevil\r") == "\\u202eevil\\r"
