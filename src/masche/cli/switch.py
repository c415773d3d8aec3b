"""A network switch whose lines are as slow as they are told to be: what simulated machines are plugged into.

Each machine's plug is one end of a veth pair; the ends lie in a network namespace where nothing else is, so that no
kernel answers for anybody there. Frames are taken from one end and put to another, by hardware address, after the delay
of the line between the two, together with what the kernel still owes them (checksums, segmentation), so any protocol
passes. Invariant: frames of one direction keep their order.
"""

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Final

from masche.agent.capture.sockets import in_namespace

_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
_PACKET_IGNORE_OUTGOING: Final = 23
_ETH_P_ALL: Final = 0x0003
_OWED_BYTES: Final = 10
"""What goes before a frame: ``struct virtio_net_hdr``."""

_LONGEST: Final = 65536 + 64
_AT_ONCE: Final = 64
_MOST_HELD: Final = 4096
"""Frames that one line holds back; more are lost, as on any line."""

Tap = Callable[[str, str, bytes], None]
"""Sees every frame that is put to a plug: whence, whither, and the frame."""


class Switch:
    """Plugs by name; ``namespace`` is the file of the namespace where their ends of the cables (veth) are."""

    def __init__(self, namespace: str, plugs: dict[str, str], *, tap: Tap | None = None) -> None:
        self._sockets = {name: in_namespace(namespace, lambda end=end: _opened(end)) for name, end in plugs.items()}
        self._learned: dict[bytes, str] = {}
        self._delays: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], deque[tuple[float, bytes]]] = {}
        self._tap = tap
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Switch of {', '.join(self._sockets)}: {sum(map(len, self._held.values()))} frames held>"

    def delay(self, one: str, other: str, seconds: float) -> None:
        """Let a line take so long from now on, in each direction. From any thread."""
        self._delays[one, other] = self._delays[other, one] = seconds

    async def run(self) -> None:
        """Pass frames on until cancelled."""
        self._loop = asyncio.get_running_loop()
        for name, each in self._sockets.items():
            self._loop.add_reader(each, self._take, name)
        try:
            await self._loop.create_future()
        finally:
            for each in self._sockets.values():
                self._loop.remove_reader(each)

    def close(self) -> None:
        """Pull all plugs."""
        for each in self._sockets.values():
            each.close()

    def _take(self, source: str) -> None:
        taken = self._sockets[source]
        with contextlib.suppress(OSError):  # nothing more is there, or the cable is gone
            for _ in range(_AT_ONCE):
                self._pass_on(source, taken.recv(_LONGEST))

    def _pass_on(self, source: str, data: bytes) -> None:
        whither, whence = data[_OWED_BYTES : _OWED_BYTES + 6], data[_OWED_BYTES + 6 : _OWED_BYTES + 12]
        self._learned[whence] = source
        known = None if whither[:1] and whither[0] & 1 else self._learned.get(whither)
        for target in self._sockets if known is None else (known,):
            if target != source:
                self._hold(source, target, data)

    def _hold(self, source: str, target: str, data: bytes) -> None:
        line, delay = (source, target), self._delays.get((source, target), 0.0)
        held = self._held.setdefault(line, deque())
        if not held and not delay:
            self._put(source, target, data)
        elif len(held) < _MOST_HELD:
            assert self._loop, "frames are taken by a loop"
            due = self._loop.time() + delay
            held.append((max(due, held[-1][0]) if held else due, data))
            if len(held) == 1:
                self._loop.call_at(held[0][0], self._due, line)

    def _due(self, line: tuple[str, str]) -> None:
        assert self._loop, "frames are held by a loop"
        held = self._held[line]
        while held and held[0][0] <= self._loop.time():
            self._put(*line, held.popleft()[1])
        if held:
            self._loop.call_at(held[0][0], self._due, line)

    def _put(self, source: str, target: str, data: bytes) -> None:
        if self._tap:
            self._tap(source, target, data[_OWED_BYTES:])
        with contextlib.suppress(OSError):  # a full queue loses frames, as a network may
            self._sockets[target].send(data)


def _opened(end: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind((end, _ETH_P_ALL))
    made.setblocking(False)
    return made


@contextlib.contextmanager
def in_a_thread(switch: Switch) -> Generator[Switch]:
    """Pass frames on in a thread of its own while the block runs."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(switch.run())
    thread = threading.Thread(target=_until_done, args=(loop, task), name="switch", daemon=True)
    thread.start()
    try:
        yield switch
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
        switch.close()


def _until_done(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)


def cables(names: Iterable[str], prefix: str) -> dict[str, str]:
    """How the switch's ends of the cables are called, by who is plugged in."""
    return {name: f"{prefix}{index}" for index, name in enumerate(names)}
