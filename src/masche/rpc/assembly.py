"""Whole messages out of the pieces in which they come, by gRPC's Length-Prefixed-Message.

The pieces of a message are kept as they came and joined once: joining large ``bytes`` is done without the lock of the
interpreter, so that no thread of an application waits for it. Invariant: no byte is copied more than twice.
"""

from typing import Final

from masche.rpc.status import Code, RpcError

HEAD: Final = 5
"""Bytes before each message: whether it is compressed, and its length."""


class Assembly:
    """The pieces of what comes next. ``most`` is the most bytes that one message may have."""

    __slots__ = ("_head", "_left", "_most", "_pieces")

    def __init__(self, most: int) -> None:
        self._most = most
        self._head = b""
        self._left = -1
        self._pieces: list[bytes] = []

    def __bool__(self) -> bool:
        """Whether a part of a message has come."""
        return bool(self._head) or self._left >= 0

    def clear(self) -> None:
        """Let go of what has come."""
        self._head, self._left, self._pieces = b"", -1, []

    def add(self, data: bytes) -> list[bytes]:
        """Add a piece, and return the messages that are whole now. Raises RpcError for what is no message to take."""
        whole: list[bytes] = []
        at = 0
        while True:
            if self._left < 0:
                head = self._head + data[at : at + HEAD - len(self._head)]
                at += len(head) - len(self._head)
                self._head = head
                if len(head) < HEAD:
                    return whole
                self._left, self._head = self._length(head), b""
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            self._pieces.append(piece)
            if self._left:
                return whole
            whole.append(b"".join(self._pieces))
            self.clear()

    def _length(self, head: bytes) -> int:
        size = int.from_bytes(head[1:], "big")
        if head[0]:
            raise RpcError(Code.INTERNAL, "a message is compressed, which was not offered")
        if size > self._most:
            why = f"a message of {size} bytes is longer than {self._most}, the most that is taken"
            raise RpcError(Code.RESOURCE_EXHAUSTED, why)
        return size
