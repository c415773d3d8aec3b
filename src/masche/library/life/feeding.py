"""What the control plane says of whom this process calls, and of its own ports."""

import asyncio
from concurrent.futures import Future

import grpc.aio

from masche.library.core.ports import Known
from masche.model.view import Inbound


class Feeding:
    """Knowledge and Reception of one process, fed over one connection after another."""

    def __init__(self) -> None:
        self._wanted: dict[str, Future[Known]] = {}
        self._asked: tuple[str, grpc.aio.Channel] | None = None

    def known(self, authority: str) -> Known | None:
        """See Knowledge."""
        self.want(authority)
        return None

    def want(self, authority: str) -> "Future[Known]":
        """See Knowledge."""
        return self._wanted.setdefault(authority, Future())

    def inbound(self, port: int) -> Inbound | None:
        """See Reception."""

    def waiting_for(self) -> str:
        """See Knowledge."""
        return "the configuration"

    def is_live(self) -> bool:
        """Whether all that was asked for has come."""
        return False

    async def run(self, node: str, channel: grpc.aio.Channel) -> None:
        """Ask."""
        self._asked = node, channel
        await asyncio.Event().wait()
