"""gRPC for Python in the mesh, three ways, in one or two lines each.

A client, or a server that may be synchronous, by gRPC's own xDS: started by ``masche run --placement library`` it needs
no code of ours; ``channel_credentials`` and ``server_credentials`` are gRPC's own without its silent plaintext, and
``bootstrap`` writes for a process what ``masche run`` writes for a command. A server without xDS, sync or asyncio, is
guarded by ``guard(port)``: mutual TLS, policies, metrics, and ``masche.library.peer.current()`` in its handlers.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from masche.identity import shown
from masche.identity.files import private_folder, write_private
from masche.identity.tls import Presented, mutual_server_credentials
from masche.library import resident as residents
from masche.library.core.inbound_door import Door
from masche.library.core.inbound_grpc import AioInterceptor, Interceptor, Judge, Visible
from masche.library.core.ports import MeshError
from masche.library.life.options import Port
from masche.library.life.options import port as read_port
from masche.library.life.residence import Resident
from masche.wire import grpc_bootstrap

BOOTSTRAP = "GRPC_XDS_BOOTSTRAP"
"""Where gRPC looks for the path of its bootstrap; it reads it once, when it is first needed."""

_INLINE = "GRPC_XDS_BOOTSTRAP_CONFIG"


# ------------------------------------------------------------------------------------------------------ gRPC's own xDS


def channel_credentials() -> grpc.ChannelCredentials:
    """Return credentials for ``grpc.secure_channel("xds:///orders:80", ...)``, sync or asyncio.

    Where the control plane asks for no TLS they fall back to TLS with the public roots, never to plaintext. Raises
    MeshError when gRPC has no bootstrap.
    """
    _check_bootstrap()
    return _xds_channel(grpc.ssl_channel_credentials())


def server_credentials() -> grpc.ServerCredentials:
    """Return credentials for ``grpc.server(..., xds=True)``: mutual TLS, and plaintext where a PeerAuthentication of
    mode DISABLE says so. Raises MeshError when gRPC has no bootstrap.
    """
    _check_bootstrap()
    return _xds_server(_insecure_server())


_library: Any = grpc  # the published stubs know neither of these
_xds_channel: Callable[[grpc.ChannelCredentials], grpc.ChannelCredentials] = _library.xds_channel_credentials
_xds_server: Callable[[grpc.ServerCredentials], grpc.ServerCredentials] = _library.xds_server_credentials
_insecure_server: Callable[[], grpc.ServerCredentials] = _library.insecure_server_credentials


def _check_bootstrap() -> None:
    if not (os.environ.get(BOOTSTRAP) or os.environ.get(_INLINE)):
        raise MeshError(
            f"gRPC has no bootstrap ({BOOTSTRAP} is not set): start the program with"
            " `masche run --placement library -- ...`, or call masche.library.grpc.bootstrap() first"
        )


def bootstrap(
    folder: Path, *, node_id: str, service: str, server: str, presented: Presented, zone: str = ""
) -> Callable[[Presented], None]:
    """Write a bootstrap and the certificate files that it names into ``folder`` (0700), and set it for this process.

    ``server`` is whom gRPC asks (``unix:/path``), ``node_id`` the id under which this process is registered there, in
    the dialect of gRPC. Call what is returned with every newer certificate: gRPC takes it up within seconds, for the
    connections made from then on. Raises UnsafeFileError when ``folder`` is not ours alone.
    """
    private_folder(folder)
    certificates = folder / "certificates"

    def show(newest: Presented) -> None:
        shown.show(
            certificates,
            {
                grpc_bootstrap.CERTIFICATE: newest.chain.encode(),
                grpc_bootstrap.KEY: newest.key.reveal(),
                grpc_bootstrap.ROOTS: newest.roots.encode(),
            },
        )

    show(presented)
    path = folder / "grpc-bootstrap.json"
    body = grpc_bootstrap.bootstrap(
        node_id=node_id, cluster=service, zone=zone, server=server, certificates=certificates / shown.CURRENT
    )
    write_private(path, body)
    os.environ[BOOTSTRAP] = str(path)
    return show


# ---------------------------------------------------------------------------------------------- servers without its xDS


class Guard:
    """What a grpcio server needs to serve one port in the mesh; made by ``guard``."""

    def __init__(self, port: Port, resident: Resident) -> None:
        self._port = port
        self._resident = resident
        door = Door(
            port.port,
            name=port.name,
            workload=lambda: resident.workload,
            reception=Visible(resident.reception),
            counter=resident.counter,
        )
        self._judge = Judge(door, local=lambda: resident.facade.identity.spiffe_id)

    def __repr__(self) -> str:
        return f"<Guard {self._judge!r}>"

    @property
    def interceptor(self) -> Interceptor:
        """For ``grpc.server(..., interceptors=[...])``; the first of them, so that no other sees what is refused."""
        return Interceptor(self._judge)

    @property
    def aio_interceptor(self) -> AioInterceptor:
        """For ``grpc.aio.server(interceptors=[...])``; handlers are coroutines."""
        return AioInterceptor(self._judge)

    def credentials(self) -> grpc.ServerCredentials:
        """Return mutual TLS with the mesh's certificate of the moment, for ``add_secure_port``.

        Waits for the first certificate as long as the options say. Raises NotReadyError.
        """
        self._resident.wait_ready()
        return mutual_server_credentials(self._resident.presented)

    def begin(self, *, host: str = "127.0.0.1") -> None:
        """Register the port, once the server has started: it gets calls when it can be connected to at ``host``."""
        self._resident.serve(self._port, probe="tcp", host=host)

    def leave(self) -> bool:
        """Take the port out of traffic, before the server stops; say whether every caller has heard of it. Blocks."""
        return self._resident.drain()


def guard(port: int | str | Port, *, resident: Resident | None = None) -> Guard:
    """Guard a grpcio server on ``port`` (``50051``, ``api:50051``) of this process, or of ``resident``.

    Raises OptionsError.
    """
    found = read_port(port)
    return Guard(
        Port(port=found.port, name=found.name, protocol=found.protocol or "grpc"), resident or residents.resident()
    )
