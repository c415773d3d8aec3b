"""One open Register stream, from the control plane's side: who is at its other end, and what is still to be told.

Invariant: nobody who does not read makes us hold more than a bounded number of messages.
"""

import asyncio
from dataclasses import dataclass, field
from itertools import count

from masche.control.enrolment import Origin
from masche.link.messages import FromControl, Scope
from masche.link.service import Peer
from masche.model.refs import Name

OUTBOX_LIMIT = 1000


class Outbox:
    """What is still to be told, in order; None is the end.

    Of each workload only the newest Scope waits, so that a machine with many of them does not fall behind when one
    Service after the other comes into being.
    """

    def __init__(self) -> None:
        self._waiting: dict[object, FromControl | None] = {}
        self._numbers = count()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: FromControl | None) -> None:
        """Add the last one, in place of an older Scope of the same workload."""
        is_scope = isinstance(message, Scope)
        self._waiting[(message.proxy, message.workload) if is_scope else next(self._numbers)] = message
        self._news.set()

    async def get(self) -> FromControl | None:
        """The first one, when there is one. For one reader."""
        await self._news.wait()
        first = self._waiting.pop(next(iter(self._waiting)))
        if not self._waiting:
            self._news.clear()
        return first

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._news.clear()


@dataclass(slots=True, eq=False)
class Session:
    """One connected agent, or process with the library: what it registered and what it is still to be told.

    ``process`` tells those of one machine apart; "" is its agent. ``zone`` is where the machine says that it is.
    """

    peer: Peer
    machine: str = ""
    process: str = ""
    agent_version: str = ""
    zone: str = ""
    proxies: set[str] = field(default_factory=set[str])
    scopes: dict[Name, Scope] = field(default_factory=dict[Name, Scope])
    draining: dict[Name, int] = field(default_factory=dict[Name, int])
    outbox: Outbox = field(default_factory=Outbox)

    @property
    def origin(self) -> Origin:
        """Whose stream it is."""
        return self.machine, self.process

    def say(self, message: FromControl) -> None:
        """Put a message into the outbox; an agent that does not read is cut off, and starts anew when it connects."""
        if len(self.outbox) < OUTBOX_LIMIT:
            self.outbox.put(message)
        else:
            self.close()

    def end(self, last: FromControl) -> None:
        """Say a last word and end the stream."""
        if len(self.outbox) < OUTBOX_LIMIT:
            self.outbox.put(last)
        self.close()

    def close(self) -> None:
        """End the stream after what is in the outbox; one that is full is emptied, since nobody reads it."""
        if len(self.outbox) >= OUTBOX_LIMIT:
            self.outbox.clear()
        self.outbox.put(None)
