"""What the control plane says of whom this process calls and of its own ports: the xDS client, across its runs.

Around a pause client and knowledge are made anew and begin with what the old ones held; who waited then goes on
waiting. Invariant: what was known is known until a control plane says something else.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from random import Random
from typing import TYPE_CHECKING, Final

from masche.library.core.ports import Known
from masche.library.life.memory import Memory
from masche.model.told import ToldServer
from masche.model.view import Inbound
from masche.wire.types import LISTENER
from masche.xds.client_words import Resource

if TYPE_CHECKING:  # what loads Envoy's messages is for the thread that begins, not for every import
    from masche.library.knowledge.knowledge import XdsKnowledge
    from masche.library.life.asking import Client
    from masche.rpc.channel import Channel
    from masche.wire.discovery import Node
    from masche.xds.client import Watch

CLIENT_LISTENER: Final = "proxy"
"""The Listener of our own control plane that has everything that may be called."""

SERVER_LISTENER: Final = "inbound/{}"
"""The one of a port of ours."""

BOTH: Final = 5.0
"""Seconds for which the knowledge of the runs before answers what that of this run does not know yet."""

RUNS: Final = 3
"""So many runs before may have to answer: who forks, forks several times."""

Open = Callable[[], "Channel"]
"""Opens a channel to the control plane. Raises OSError while there is none."""


class Feeding:
    """Knowledge and Reception of one process. What answers questions is for any thread, all else for the resident's.

    ``prepare`` is given what is new in the resident's thread, before callers are.
    """

    def __init__(
        self, memory: Memory, *, node: "Callable[[], Node]", rng: Random, prepare: Callable[[Known], object] = id
    ) -> None:
        self._memory = memory
        self._node = node
        self._rng = rng
        self._prepare = prepare
        self._client: Client | None = None
        self._knowledge: XdsKnowledge | None = None
        self._ports: dict[int, Watch] = {}
        self._inbound: dict[int, Inbound] = {}
        self._waiting: dict[Future[Known], str] = {}
        self._asked: set[str] = set()
        self._is_paused = self._is_over = False
        self._before: tuple[XdsKnowledge, ...] = ()

    def __repr__(self) -> str:
        return f"<Feeding {self._knowledge!r}>"

    # -- for any thread -----------------------------------------------------------------------------------------------

    def known(self, authority: str) -> Known | None:
        """See Knowledge."""
        knowledge = self._knowledge
        if knowledge is None:
            self._asked.add(authority)
            return None
        found = knowledge.known(authority)
        if found is not None:
            return found
        return next((known for each in self._before if (known := each.known(authority)) is not None), None)

    def want(self, authority: str) -> "Future[Known]":
        """See Knowledge."""
        future: Future[Known] = Future()
        self._waiting[future] = authority
        future.add_done_callback(lambda done: self._waiting.pop(done, None))
        if (knowledge := self._knowledge) is not None:
            self._hand_on(future, authority, knowledge)
        return future

    def inbound(self, port: int) -> Inbound | None:
        """See Reception."""
        return self._inbound.get(port)

    def waiting_for(self) -> str:
        """See Knowledge."""
        knowledge = self._knowledge
        if knowledge is None:
            return "the resident thread to start"
        missing = [port for port in tuple(self._ports) if port not in self._inbound]
        said = f"what the control plane says of port {missing[0]}" if missing else ""
        return knowledge.waiting_for() or said

    # -- in the resident's loop ---------------------------------------------------------------------------------------

    def begin(self, name: str, channel: Open) -> None:
        """Begin a run; ``name`` is the control plane's for people."""
        from masche.library.knowledge.knowledge import XdsKnowledge
        from masche.library.life.asking import Client

        self._memory = self._memory.again()
        self._client = Client(name, channel, self._memory, node=self._node, rng=self._rng)
        self._client.watch(LISTENER, CLIENT_LISTENER)  # so that there is a stream: who has none is away
        ports, self._ports = tuple(self._ports), {}
        for port in ports:
            self.listen(port)
        knowledge = XdsKnowledge(
            self._client, now=time.monotonic, rng=self._rng, template=CLIENT_LISTENER, prepare=self._prepare
        )
        if self._knowledge is not None:
            self._before = (self._knowledge, *self._before)[:RUNS]
        self._knowledge, self._is_paused = knowledge, False
        for authority in tuple(self._asked):
            knowledge.known(authority)
        for future, authority in tuple(self._waiting.items()):
            self._hand_on(future, authority, knowledge)

    async def run(self) -> None:
        """Answer questions, for as long as this runs; for a moment also with what the runs before knew."""
        assert self._knowledge is not None
        asyncio.get_running_loop().call_later(BOTH, self._settle)
        answering = asyncio.ensure_future(self._knowledge.run())
        try:
            await asyncio.shield(answering)
        finally:
            self._is_paused = not self._is_over
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    def _settle(self) -> None:
        self._before = ()

    async def ask(self) -> None:
        """Ask the control plane, for as long as this runs."""
        assert self._client is not None
        await self._client.run()

    def end(self) -> None:
        """This run is the last: who waits is told so when it ends. Without this, who waits waits for the next run."""
        self._is_over = True

    def listen(self, port: int) -> None:
        """Want to be told of a port of ours."""
        if port in self._ports or self._client is None:
            return

        def heard(resource: Resource) -> None:
            if isinstance(resource.value, ToldServer):
                self._inbound[port] = resource.value.inbound

        self._ports[port] = watch = self._client.watch(LISTENER, SERVER_LISTENER.format(port), heard)
        heard(watch.resource)

    def is_live(self) -> bool:
        """Whether all that was asked for has come, and none of it was refused."""
        client = self._client
        return client is not None and client.is_connected and not client.refusals() and not self.waiting_for()

    def _hand_on(self, future: "Future[Known]", authority: str, knowledge: "XdsKnowledge") -> None:
        """Let ``knowledge`` answer; what it cannot because its run ends, the next will."""
        asked = knowledge.want(authority)

        def answered(done: "Future[Known]") -> None:
            if done.cancelled() or future.done() or self._is_paused or knowledge is not self._knowledge:
                return
            if not future.set_running_or_notify_cancel():
                return
            if (error := done.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result())

        asked.add_done_callback(answered)
        future.add_done_callback(lambda done: asked.cancel() if done.cancelled() else None)
