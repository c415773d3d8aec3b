"""Mesh DNS of one machine: opens the sockets in the namespaces of workloads, at which name servers answer.

Invariant: one way to the host's resolvers, from the agent's own namespace, for all of them. What reads and writes DNS
is loaded with the first: dnspython takes 4 MB, which an agent without captured workloads does not spend.
"""

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from masche.agent.capture.sockets import lives_in
from masche.agent.dns.names import Names
from masche.agent.dns.resolvers import HostResolvers
from masche.agent.dns.upstream import PORT, Upstream
from masche.agent.keeping import Lender

if TYPE_CHECKING:
    from masche.agent.dns.name_server import NameServer

_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_BY_IPV4: Final = frozenset({(socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_STREAM)})

_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

OpenSocket = Callable[[str, socket.AddressFamily, socket.SocketKind], socket.socket]


class MeshDns:
    """Mesh DNS of one machine: a server in each namespace, one way to the host's resolvers for all of them."""

    def __init__(
        self, *, open_socket: OpenSocket, resolvers: HostResolvers | None = None, upstream_port: int = PORT
    ) -> None:
        self._open_socket = open_socket
        self._resolvers = resolvers or HostResolvers()
        self._upstream = Upstream(self._resolvers, port=upstream_port)
        self.lender = Lender()

    def __repr__(self) -> str:
        return f"<MeshDns {self._upstream}>"

    async def serve(
        self, namespace_path: str, port: int, answers: Callable[[], Names], *, owner: str = ""
    ) -> "NameServer":
        """Answer on ``port`` of the loopback addresses in a namespace ("" for our own) until the NameServer is closed.

        nftables' ``redirect`` leads there what a namespace sends itself, and what is bound there replies from there.
        ``answers`` is asked for each query and should return the same object for as long as nothing has changed;
        ``names.names`` makes it of a Scope. A namespace without IPv6 is served by IPv4 alone. ``owner`` is the workload
        whose runner keeps the sockets.

        Raises:
            OSError: there is no such namespace, or the port is taken.
        """
        from masche.agent.dns.name_server import NameServer

        server = NameServer(answers, self._resolvers, self._upstream)
        try:
            sockets = self._brought(owner, namespace_path, port) or self._bound(namespace_path, port)
            await server.listen(sockets)
        except OSError:
            await server.close()
            raise
        self.lender.lend(owner, sockets)
        server.at_close(lambda: self.lender.withdraw(owner))
        return server

    def _brought(self, owner: str, namespace_path: str, port: int) -> tuple[socket.socket, ...]:
        """What the runner kept when an agent died, if all of it is what we would open now."""
        brought = self.lender.brought(owner)
        found = {(each.family, each.type) for each in brought if _fits(each, namespace_path, port)}
        if len(found) == len(brought) and found >= _BY_IPV4:
            for each in brought:
                each.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            return brought
        for each in brought:
            each.close()
        return ()

    def _bound(self, namespace_path: str, port: int) -> tuple[socket.socket, ...]:
        by_ipv4 = self._pair(namespace_path, socket.AF_INET, port)
        try:
            return (*by_ipv4, *self._pair(namespace_path, socket.AF_INET6, port))
        except OSError as error:
            if error.errno in _NO_IPV6:
                return by_ipv4
            for each in by_ipv4:
                each.close()
            raise

    def _pair(self, namespace_path: str, family: socket.AddressFamily, port: int) -> tuple[socket.socket, ...]:
        """A socket for datagrams and one for connections: bound both, or neither is left."""
        with contextlib.ExitStack() as opened:
            pair = tuple(
                opened.enter_context(self._open_socket(namespace_path, family, kind))
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
            )
            for each in pair:
                each.setblocking(False)  # noqa: FBT003 - the standard library's own signature
                if each.type is socket.SOCK_STREAM:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.bind((_LOOPBACK[family], port))
            opened.pop_all()
            return pair


def _fits(found: socket.socket, namespace_path: str, port: int) -> bool:
    """Whether a socket is bound where one of ours would be."""
    try:
        return found.getsockname()[:2] == (_LOOPBACK.get(found.family), port) and lives_in(found, namespace_path)
    except OSError:
        return False
