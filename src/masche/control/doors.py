"""Where agents come in: one server for xDS and the link over mutual TLS and over the Unix socket, and one, asking for
no certificate, for machines that have none yet.

The Unix socket is bound last, so that a start which fails on a port takes no socket from anybody.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from masche.identity import tls, transport
from masche.identity.presented import Presented
from masche.link import messages
from masche.link.service import JoiningService, LinkService, handlers, joining_handlers
from masche.wire.discovery import MAX_REQUEST_BYTES
from masche.xds import listening, server
from masche.xds.server import Provider

SOCKET = "control.sock"
GRACE = 2.0
"""Seconds that open calls have to end when the doors are closed."""


class DoorError(Exception):
    """A port or a socket cannot be listened on; the message says which, why and what to do."""


class Doors:
    """Both servers of one control plane. ``address`` and ``joining_address`` are ``host:port``, known once bound."""

    def __init__(self, listen: str, port: int, *, data: Path, presented: Callable[[], Presented]) -> None:
        self._listen = listen
        self._wanted = port
        self._socket = data / SOCKET
        self._presented = presented
        self._inner = _server(transport.server(max_receive_bytes=MAX_REQUEST_BYTES))
        self._outer = _server(transport.door(max_receive_bytes=messages.MAX_JOIN_BYTES))
        self._has_socket = False
        self.address = ""
        self.joining_address = ""

    def bind(self) -> None:
        """Take both ports and the socket. Raises DoorError."""
        inner = self._bind(self._inner, self._wanted, tls.mutual_server_credentials(self._presented))
        beside = self._wanted + 1 if self._wanted else 0
        outer = self._bind(self._outer, beside, tls.joining_server_credentials(self._presented))
        try:
            listening.bind_unix(self._inner, self._socket)
        except (RuntimeError, OSError) as error:
            raise DoorError(f"cannot listen on {self._socket}: {error}; choose another folder with --data") from error
        self._has_socket = True
        self.address, self.joining_address = f"{self._listen}:{inner}", f"{self._listen}:{outer}"

    def _bind(self, to: grpc.aio.Server, port: int, credentials: grpc.ServerCredentials) -> int:
        host = f"[{self._listen}]" if ":" in self._listen else self._listen
        try:
            bound = to.add_secure_port(f"{host}:{port}", credentials)
        except (RuntimeError, OSError) as error:
            raise DoorError(self._why_not(port)) from error
        if not bound:
            raise DoorError(self._why_not(port))
        return bound

    def _why_not(self, port: int) -> str:
        return (
            f"cannot listen on {self._listen} port {port}: another process has it, or the address is not this "
            "machine's; choose others with --xds-port and --listen"
        )

    async def open(self, agents: LinkService, streams: Provider, joining: JoiningService, *, domain: str) -> None:
        """Let everybody in."""
        _add(self._inner, [handlers(agents, trust_domain=lambda: domain), server.handlers(streams)])
        _add(self._outer, [joining_handlers(joining)])
        await self._inner.start()
        await self._outer.start()

    async def close(self) -> None:
        """Refuse new calls and end the open ones."""
        await asyncio.gather(self._inner.stop(GRACE), self._outer.stop(GRACE))
        if self._has_socket:
            self._socket.unlink(missing_ok=True)


def _server(options: transport.Options) -> grpc.aio.Server:
    made: Any = grpc.aio  # the stubs of grpcio leave the handlers' types unknown
    return made.server(options=options)


def _add(to: Any, some: Sequence[Any]) -> None:
    to.add_generic_rpc_handlers(tuple(some))
