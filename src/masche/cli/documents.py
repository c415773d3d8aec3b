"""Reads what ``-f`` names, whole and within limits, before anything is asked of the control plane."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from masche.cli.exits import Exit
from masche.cli.failures import Failed

if TYPE_CHECKING:
    from masche.api.messages import Document

STANDARD_INPUT = "-"
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_BYTES = 7 * 1024 * 1024
"""All files together; below the API's limit on a body, in which the text is escaped."""


def documents(files: Sequence[str]) -> "tuple[Document, ...]":
    """Read all of them. Raises Failed for one that is missing, no text, empty or too large."""
    from masche.api.messages import Document

    read = tuple(Document(file=name, text=text) for file in files for name, text in _read(file))
    size = sum(len(document.text.encode()) for document in read)
    if size > MAX_BYTES:
        fix = f"apply at most {MAX_BYTES // (1024 * 1024)} MiB at once"
        raise Failed(f"the documents are too large ({size} bytes)", fix=fix, code=Exit.INVALID)
    if not any(document.text.strip() for document in read):
        raise Failed(f"there is nothing in {', '.join(files)}", fix="give YAML documents", code=Exit.INVALID)
    return read


def _read(file: str) -> Iterator[tuple[str, str]]:
    if file == STANDARD_INPUT:
        yield "standard input", _text("standard input", sys.stdin.buffer.read(MAX_BYTES + 1))
        return
    path = Path(file)
    if not path.exists():
        raise Failed(f"{file} does not exist", fix="name a YAML file, a folder, or - for standard input")
    for part in _folder(path) if path.is_dir() else [path]:
        with part.open("rb") as opened:
            yield str(part), _text(str(part), opened.read(MAX_BYTES + 1))


def _folder(path: Path) -> list[Path]:
    found = sorted(part for part in path.iterdir() if part.suffix in SUFFIXES and part.is_file())
    if not found:
        raise Failed(f"the folder {path} holds no YAML", fix="name files that end in .yaml, .yml or .json")
    return found


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fix = "save it as UTF-8"
        raise Failed(f"{name} is not UTF-8 (byte {error.start})", fix=fix, code=Exit.INVALID) from None
