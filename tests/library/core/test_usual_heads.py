"""Heads that are read at a glance, held to http.client."""

import io
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.library.core.usual_heads import UsualHeads


class Socket:
    """As much of a socket as http.client asks for."""

    def __init__(self, data: bytes, piece: int) -> None:
        self.data, self.piece = data, piece

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(Pieces(self.data, self.piece))


class Pieces(io.RawIOBase):
    """Bytes that come in pieces."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._rest, self._piece = data, piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part, self._rest = self._rest[: min(self._piece, len(buffer))], self._rest[min(self._piece, len(buffer)) :]
        buffer[: len(part)] = part
        return len(part)


def read(kind: type[HTTPResponse], data: bytes, method: str, piece: int = 65536) -> object:
    """All that can be asked of an answer."""
    answer = kind(cast("Any", Socket(data, piece)), method=method)
    try:
        answer.begin()
        said = answer.headers
        framed = (answer.chunked, answer.length, answer.will_close, answer.version, answer.reason, answer.status)
        return framed, said.items(), str(said.defects), said.get_all("a"), said.is_multipart(), body(answer)
    except (HTTPException, ValueError) as error:
        return type(error), str(error)
    finally:
        answer.close()


def body(answer: HTTPResponse) -> object:
    try:
        return answer.read()
    except HTTPException as error:
        return type(error)


NAMES = st.sampled_from(
    ("A", "a", "Content-Length", "content-length", "Transfer-Encoding", "Connection", "Content-Type", "x_y", "X y", "")
)
VALUES = st.sampled_from(
    ("", "0", "3", " 3", "3 ", "\t3", "+3", "-1", "0x3", "03", "1_0", "chunked", "Chunked", "gzip, chunked", "close")
) | st.sampled_from(
    ("multipart/mixed; boundary=b", "Multipart/mixed", "text/plain", "Zürich", "a\x00b", "a\x7fb", "a\tb", "\xa0", "²")
)
LINES = st.tuples(
    NAMES, st.sampled_from([":", ": ", ":\t", " : ", ""]), VALUES, st.sampled_from(["\r\n"] * 8 + ["\n", "\r\n ", "\r"])
)
FIRST = st.sampled_from(
    ["HTTP/1.1 200 OK\r\n"] * 6
    + ["HTTP/1.1 200 \r\n", "HTTP/1.1 200\r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 204 No\r\n"]
    + ["HTTP/1.1 304 No\r\n", "HTTP/1.1  200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"]
    + ["HTTP/1.1 101 Up\r\n", "HTTP/1.1 99 OK\r\n", "nothing\r\n", "HTTP/1.1 503 \tno \r\n"]
)
BODIES = st.sampled_from([b"", b"abc", b"abcdef", b"3\r\nabc\r\n0\r\n\r\n", b"3\r\nab"])


@given(
    FIRST, st.lists(LINES, max_size=4), BODIES, st.sampled_from(["GET", "GET", "HEAD"]), st.sampled_from([1, 7, 65536])
)
def test_every_answer_is_what_http_client_makes_of_it(
    first: str, lines: list[tuple[str, str, str, str]], content: bytes, method: str, piece: int
) -> None:
    head = (first + "".join("".join(line) for line in lines) + "\r\n").encode("latin-1")
    assert read(UsualHeads, head + content, method, piece) == read(HTTPResponse, head + content, method, piece)


@pytest.mark.parametrize(
    ("head", "is_usual"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: today\r\n\r\nabc", True),
        (b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: a\r\n b\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 91 + b"Content-Length: 3\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 9000 + b"\r\nContent-Length: 3\r\n\r\nabc", False),
    ],
)
def test_the_usual_is_read_at_a_glance_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, head: bytes, is_usual: bool
) -> None:
    asked: list[bool] = []
    begin = HTTPResponse.begin

    def noted(self: HTTPResponse) -> None:
        asked.append(True)
        begin(self)

    monkeypatch.setattr(HTTPResponse, "begin", noted)
    read(UsualHeads, head, "GET")
    assert asked == ([] if is_usual else [True])
