"""What a machine may do here, by what its join token gave it: the one place that reads a machine's grant.

A peer without a machine is the agent of our own machine on the Unix socket; it has our uid and may run anything.
"""

from masche.identity.credential import Machines, refusal
from masche.link.refusal import RefusedError
from masche.link.service import Peer


class Gate:
    """Answers from the machines that joined. A revoked machine is refused from the moment it is revoked."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def is_revoked(self, machine: str) -> bool:
        """Whether a machine was banned."""
        return machine in self._machines.revoked

    def admit(self, peer: Peer) -> None:
        """Raise RefusedError for a machine that was banned."""
        if peer.machine is not None and self.is_revoked(peer.machine):
            raise RefusedError(f"the machine {peer.machine} is revoked", fix="join it again under another name")

    async def permits(self, peer: Peer, namespace: str, account: str) -> str:
        """Why this peer may not run this service account, or ""."""
        if peer.machine is None:
            return ""
        record = await self._machines.find(peer.machine)
        if record is None:
            return f"machine {peer.machine} is not known here"
        return refusal(record.grant, namespace, account)
