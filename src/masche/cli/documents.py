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
MAX_BYTES = 8 * 1024 * 1024
"""Of one file; what the API takes in all."""


def documents(files: Sequence[str]) -> "tuple[Document, ...]":
    """Read all of them. Raises Failed for one that is missing, no text or too large, and for nothing."""
    from masche.api.messages import Document

    read = tuple(Document(file=name, text=text) for file in files for name, text in _read(file))
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
    if len(content) > MAX_BYTES:
        fix = "split it"
        raise Failed(f"{name} is larger than {MAX_BYTES // (1024 * 1024)} MiB", fix=fix, code=Exit.INVALID)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fix = "save it as UTF-8"
        raise Failed(f"{name} is not UTF-8 (byte {error.start})", fix=fix, code=Exit.INVALID) from None
