"""Answers of http.client whose usual head is read at a glance, and every other one as http.client reads it.

http.client gives the head of each answer to the parser of mail, which takes as long as half of the pipeline. Nearly all
answers are HTTP/1.1, say how they are framed in one way, and have nothing odd in their headers. Invariant: whatever is
read here http.client reads in the same way, and of all else nothing has been taken away when it begins.
"""

import re
from http.client import HTTPMessage, HTTPResponse
from typing import Any, cast

_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([ -~]*)\Z")
_LINE = re.compile(rb"([A-Za-z0-9_-]+):[ \t]*([\t -~]*)\Z")
_DIGITS = re.compile(r"[0-9]{1,18}\Z")
_MOST = 90
"""Headers; http.client's own limit is 100."""


class UsualHeads(HTTPResponse):
    """An answer. Set it as ``response_class`` of a connection."""

    def begin(self) -> None:
        """Read the head. Raises what http.client raises."""
        if self.headers is None and not self._glance():  # pyright: ignore[reportUnnecessaryComparison] # None before it
            super().begin()

    def _glance(self) -> bool:
        """Read the head if it has come as a whole and is a usual one; nothing is taken of any other."""
        peek = getattr(self.fp, "peek", None)
        head, end, _ = (b"" if peek is None else cast("bytes", peek())).partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.split(b"\r\n")
        status = _STATUS.match(first)
        found = [_LINE.match(line) for line in lines]
        if status is None or len(found) > _MOST or None in found:
            return False
        pairs = [(each[1].decode("ascii"), each[2].decode("ascii")) for each in cast("list[re.Match[bytes]]", found)]
        if not self._frame(int(status[1]), pairs):
            return False
        self.fp.read(len(head) + len(end))
        self.reason = status[2].decode("ascii").strip()
        return True

    def _frame(self, status: int, pairs: list[tuple[str, str]]) -> bool:
        """Note how the body is framed, if it is either counted or chunked, and the connection stays open."""
        said = [(name.lower(), value) for name, value in pairs]
        framing = [each for each in said if each[0] in _FRAMING]
        if len(framing) != 1 or status in _BODILESS or cast("Any", self)._method == "HEAD":
            return False
        name, value = framing[0]
        is_chunked = name == "transfer-encoding"
        if value.lower() != "chunked" if is_chunked else name == "connection" or not _DIGITS.match(value):
            return False
        if any(name == "content-type" and value[:9].lower() == "multipart" for name, value in said):
            return False
        message = HTTPMessage()
        for each in pairs:
            message.set_raw(*each)
        vars(self).update(code=status, status=status, version=11, headers=message, msg=message, will_close=False)
        vars(self).update(chunked=is_chunked, chunk_left=None if is_chunked else self.chunk_left)
        vars(self).update(length=None if is_chunked else int(value))
        return True


_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
"""Of these a usual head has one, which is not about the connection."""

_BODILESS = frozenset({204, 304})
