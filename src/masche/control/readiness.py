"""Whether a first Mesh was compiled: until then nothing is known of any proxy; whoever asks waits, or is told why not.

Invariant: nobody waits for a Mesh that was tried and cannot be compiled.
"""

import asyncio

from masche.api.plane import Fault, PlaneError


class Readiness:
    """The first compilation. Once it succeeded it is done for ever, whatever later ones do."""

    def __init__(self) -> None:
        self._tried = asyncio.Event()
        self._is_ready = False
        self._why = ""

    def __repr__(self) -> str:
        return f"<Readiness {'ready' if self._is_ready else self._why or 'not tried yet'}>"

    def is_set(self) -> bool:
        """Whether a Mesh was compiled."""
        return self._is_ready

    def set(self) -> None:
        """A Mesh was compiled."""
        self._is_ready = True
        self._tried.set()

    def fail(self, why: str) -> None:
        """What is stored cannot be compiled."""
        self._why = why
        self._tried.set()

    def again(self) -> None:
        """Something else is stored now and will be tried."""
        if not self._is_ready:
            self._tried.clear()

    async def tried(self) -> None:
        """Wait until the store was read and a compilation tried: enough for whoever only writes."""
        await self._tried.wait()

    async def wait(self) -> None:
        """Wait until a Mesh is compiled. Raises PlaneError when the only one that there is cannot be."""
        await self._tried.wait()
        if not self._is_ready:
            raise PlaneError(
                Fault.UNAVAILABLE,
                f"what is stored cannot be compiled, so nothing is known of the mesh: {self._why}",
                fix="delete or change what was applied last; `masche status` says which revision it is",
            )
