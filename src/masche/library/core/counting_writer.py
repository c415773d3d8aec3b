"""asyncio's StreamWriter, which counts what is written, for whoever reports on connections."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

Data = bytes | bytearray | memoryview


class Tally(Protocol):
    """Who keeps count. It outlives the writer, and does not know it."""

    sent: int


class CountingWriter(asyncio.StreamWriter):
    """Counts the bytes that are written on a ``tally``."""

    tally: Tally

    def write(self, data: Data) -> None:
        """As StreamWriter has it."""
        self.tally.sent += len(data)
        super().write(data)

    def writelines(self, data: Iterable[Data]) -> None:
        """As StreamWriter has it."""
        self.write(b"".join(data))


def counting_writer(
    transport: asyncio.Transport, protocol: asyncio.StreamReaderProtocol, reader: asyncio.StreamReader, tally: Tally
) -> CountingWriter:
    """Return the writer of a connection of the running loop."""
    made = CountingWriter(transport, protocol, reader, asyncio.get_running_loop())
    made.tally = tally
    return made
