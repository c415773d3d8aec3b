"""Text into documents: size, encoding, the split at ``---``, and one parser per document.

Each document is parsed alone, so that a syntax error in one does not hide what is wrong in the others.
"""

import re
from collections.abc import Iterator

import yaml
from yaml.events import Event

from masche.model.diagnostic import Diagnostic, Place
from masche.model.tree import BoundError, Builder, Document

MAX_INPUT_BYTES = 8 * 1024 * 1024
MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_DOCUMENTS = 10_000

_SEPARATOR = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_DIRECTIVES = re.compile(r"(?:[ \t\r]*(?:#[^\n]*)?\n|%[^\n]*\n)*%[^\n]*\n(?:[ \t\r]*(?:#[^\n]*)?\n)*")
_JSON = re.compile(r"(?:---)?\s*[{\[]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")

Found = tuple[list[Document], list[Diagnostic]]


def read(text: str | bytes, *, file: str) -> Found:
    """Read every document of a YAML 1.2 stream or a JSON text. Never raises; what is wrong is in the Diagnostics."""
    if len(text) > MAX_INPUT_BYTES:
        return [], [_wrong("invalid-size", file, f"the input is larger than {MAX_INPUT_BYTES} bytes", "split it")]
    try:
        plain = _decoded(text)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raw = text if isinstance(text, bytes) else text.encode(errors="replace")
        line = raw.count(b"\n", 0, error.start) + 1
        return [], [_wrong("invalid-encoding", file, "the input is not UTF-8", "save the file as UTF-8", (line, 1))]
    if found := _CONTROL.search(plain):
        line = plain.count("\n", 0, found.start()) + 1
        why = f"the control character U+{ord(found[0]):04X} is refused"
        column = found.start() - plain.rfind("\n", 0, found.start())
        return [], [_wrong("invalid-character", file, why, "remove it", (line, column))]
    return _read(plain, file)


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        text.encode()
        return text.removeprefix("\ufeff")
    return text.decode("utf-8-sig")


def _read(text: str, file: str) -> Found:
    documents: list[Document] = []
    diagnostics: list[Diagnostic] = []
    for number, (chunk, first_line) in enumerate(_chunks(text)):
        if number >= MAX_DOCUMENTS:
            why = f"the input has more than {MAX_DOCUMENTS} documents"
            diagnostics.append(_wrong("invalid-size", file, why, "split it", (first_line, 1)))
            break
        if len(chunk) > MAX_DOCUMENT_BYTES or len(chunk.encode()) > MAX_DOCUMENT_BYTES:
            why = f"the document is larger than {MAX_DOCUMENT_BYTES} bytes"
            diagnostics.append(_wrong("invalid-size", file, why, "split it", (first_line, 1)))
            continue
        builder = Builder(file, first_line, diagnostics)
        try:
            documents.extend(builder.documents(_events(chunk)))
        except BoundError as bound:
            diagnostics.append(
                Diagnostic(code="invalid-size", where=file, why=bound.why, fix=bound.fix, place=bound.place)
            )
            break
        except yaml.YAMLError as error:
            diagnostics.append(_syntax(error, file, first_line, chunk))
    return documents, diagnostics


def _chunks(text: str) -> Iterator[tuple[str, int]]:
    """Yield each document's text, from its ``---`` on, and the line in which it begins.

    "The document markers ... must not be used as content" at the start of a line (YAML 1.2.2, 9.1.2), so the split
    cannot cut a scalar in two.
    """
    starts = [0, *(found.start() for found in _SEPARATOR.finditer(text) if found.start())]
    line, begin = 1, 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if end < len(text) and _DIRECTIVES.fullmatch(text, start, end):
            continue
        yield text[begin:end], line
        line += text.count("\n", begin, end)
        begin = end


def _events(chunk: str) -> Iterator[Event]:
    if _JSON.match(chunk):
        chunk = _SURROGATES.sub(_joined, chunk)
    parser = yaml.CSafeLoader(chunk)
    try:
        while (event := parser.get_event()) is not None:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] # the C parser is untyped
            yield event
    finally:
        parser.dispose()  # pyright: ignore[reportUnknownMemberType] # the C parser is untyped


def _joined(pair: re.Match[str]) -> str:
    """JSON writes characters beyond U+FFFF as two surrogates, YAML as one ``\\U`` escape."""
    code = 0x10000 + ((int(pair[2], 16) - 0xD800) << 10) + (int(pair[3], 16) - 0xDC00)
    return f"{pair[1]}\\U{code:08x}"


def _syntax(error: yaml.YAMLError, file: str, first_line: int, chunk: str) -> Diagnostic:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "this is not YAML"
    mark = getattr(error, "problem_mark", None)
    row, column = (int(mark.line), int(mark.column)) if mark else (0, 0)
    wrong = "".join(chunk.splitlines()[row : row + 1])[column:]
    fix = (
        "indent with spaces"
        if wrong.startswith("\t")
        else "correct the syntax; everything else in the document waits for it"
    )
    return _wrong("invalid-yaml", file, problem, fix, (first_line + row, column + 1))


def _wrong(code: str, file: str, why: str, fix: str, at: tuple[int, int] = (1, 1)) -> Diagnostic:
    line, column = at
    return Diagnostic(code=code, where=file, why=why, fix=fix, place=Place(file=file, line=line, column=column))
