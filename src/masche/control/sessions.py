"""One open Register stream, from the control plane's side: who is at its other end, and what is still to be told.

Invariant: nobody who does not read makes us hold more than a bounded number of messages.
"""

import asyncio
from dataclasses import dataclass, field

from masche.control.enrolment import Origin
from masche.link.messages import FromControl, Scope
from masche.link.service import Peer
from masche.model.refs import Name

OUTBOX_LIMIT = 1000


@dataclass(slots=True, eq=False)
class Session:
    """One connected agent, or process with the library: what it registered and what it is still to be told.

    ``process`` tells those of one machine apart; "" is its agent.
    """

    peer: Peer
    machine: str = ""
    process: str = ""
    agent_version: str = ""
    proxies: set[str] = field(default_factory=set[str])
    scopes: dict[Name, Scope] = field(default_factory=dict[Name, Scope])
    draining: dict[str, int] = field(default_factory=dict[str, int])
    outbox: "asyncio.Queue[FromControl | None]" = field(default_factory=lambda: asyncio.Queue(OUTBOX_LIMIT))

    @property
    def origin(self) -> Origin:
        """Whose stream it is."""
        return self.machine, self.process

    def say(self, message: FromControl) -> None:
        """Put a message into the outbox; an agent that does not read is cut off, and starts anew when it connects."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.close()

    def end(self, last: FromControl) -> None:
        """Say a last word and end the stream."""
        if not self.outbox.full():
            self.outbox.put_nowait(last)
        self.close()

    def close(self) -> None:
        """End the stream after what is in the outbox; one that is full is emptied, since nobody reads it."""
        while self.outbox.full():
            self.outbox.get_nowait()
        self.outbox.put_nowait(None)
