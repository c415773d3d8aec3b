"""The control plane's own certificate: made at start, renewed at half-life, shown in every handshake from then on.

The key never touches a disk; a restart makes a new one, which is cheap, and agents verify the identity, not the key.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from masche.identity import keys
from masche.identity.authority import DAY, Authority, Issued
from masche.identity.presented import Presented

LIFETIME = 30 * DAY
RETRY = 60.0


class ServerIdentity:
    """What the control plane presents. ``presented`` may be asked from any thread."""

    def __init__(self, authority: Authority, *, listen: str, wall: Callable[[], float]) -> None:
        self._authority = authority
        self._hosts = _hosts(listen)
        self._wall = wall
        self._issued, self._presented = self._make()

    def presented(self) -> Presented:
        """The chain, key and roots for the next handshake."""
        return self._presented

    @property
    def issued(self) -> Issued:
        """The certificate in force."""
        return self._issued

    async def renew(self) -> None:
        """Renew for ever."""
        while True:
            await asyncio.sleep(max(RETRY, (self._issued.not_after - self._wall()) / 2))
            self._issued, self._presented = self._make()

    def _make(self) -> tuple[Issued, Presented]:
        key = keys.generate()
        request = keys.signing_request(key)
        issued = self._authority.sign_control_plane(request, self._hosts, now=self._wall(), lifetime=LIFETIME)
        roots = self._authority.bundle.pem
        return issued, Presented(chain=issued.chain, key=keys.private_pem(key), roots=roots)


def _hosts(listen: str) -> tuple[str, ...]:
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname()}
    try:
        if not ipaddress.ip_address(listen).is_unspecified:
            names.add(listen)
    except ValueError:
        names.add(listen)
    return tuple(sorted(name for name in names if name))
