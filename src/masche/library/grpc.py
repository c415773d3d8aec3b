"""gRPC for Python in the mesh, in one or two lines.

A client: ``grpc.secure_channel("xds:///orders:80", channel_credentials())``, sync or asyncio, by gRPC's own xDS. It is
told by the agent if ``masche run --placement library`` started it, else by this process' own life in the mesh. A server
without xDS, sync or asyncio: ``guard(port)`` gives it mutual TLS, policies, metrics, and
``masche.library.peer.current()`` in its handlers. A synchronous server with ``xds=True``: ``server_credentials()``.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import grpc
except ModuleNotFoundError as error:
    if error.name != "grpc":
        raise
    raise ModuleNotFoundError("gRPC for Python is not there: pip install 'masche[grpc]'", name="grpc") from error

from masche.identity.tls import mutual_server_credentials
from masche.library import resident as residents
from masche.library.core.ports import MeshError
from masche.library.inbound.door import Door
from masche.library.inbound.grpc import AioInterceptor, Interceptor, Judge
from masche.library.inbound.grpc_seen import Visible
from masche.library.life.options import port as read_port
from masche.library.life.outlet import FOLDER
from masche.library.life.residence import Resident
from masche.model.port import Port

BOOTSTRAP = "GRPC_XDS_BOOTSTRAP"
"""Where gRPC looks for the path of its bootstrap; it reads it once, when it is first needed."""

_INLINE = "GRPC_XDS_BOOTSTRAP_CONFIG"


# ------------------------------------------------------------------------------------------------------ gRPC's own xDS


def channel_credentials(*, resident: Resident | None = None) -> grpc.ChannelCredentials:
    """Return credentials for ``grpc.secure_channel("xds:///orders:80", ...)`` and its asyncio twin.

    Where the control plane asks for no TLS they fall back to TLS with the public roots, never to plaintext. Without a
    bootstrap this process gets one first, for which it waits as long as its options say. Raises NotReadyError,
    OptionsError.
    """
    if not _has_bootstrap():
        bootstrap(resident=resident)
    return _xds_channel(grpc.ssl_channel_credentials())


def server_credentials() -> grpc.ServerCredentials:
    """Return credentials for ``grpc.server(..., xds=True)``: mutual TLS, and plaintext where a PeerAuthentication of
    mode DISABLE says so. Raises MeshError when the process was not started by ``masche run --placement library``.
    """
    if not _has_bootstrap():
        raise MeshError(
            f"gRPC has no bootstrap ({BOOTSTRAP} is not set): start the program with"
            " `masche run --placement library -- ...`, or serve without xDS, by masche.library.grpc.guard(port)"
        )
    return _xds_server(_insecure_server())


_library: Any = grpc  # the published stubs know neither of these
_xds_channel: Callable[[grpc.ChannelCredentials], grpc.ChannelCredentials] = _library.xds_channel_credentials
_xds_server: Callable[[grpc.ServerCredentials], grpc.ServerCredentials] = _library.xds_server_credentials
_insecure_server: Callable[[], grpc.ServerCredentials] = _library.insecure_server_credentials


def _has_bootstrap() -> bool:
    path = os.environ.get(BOOTSTRAP, "")
    if path and path != _own.path and Path(path).parent.name.startswith(FOLDER):
        del os.environ[BOOTSTRAP]  # it came with the environment of a process that made it for itself
        path = ""
    return bool(path or os.environ.get(_INLINE))


def bootstrap(*, resident: Resident | None = None) -> Path:
    """Let gRPC's own xDS client ask the mesh from within this process; return the path of what it reads.

    For clients: a server that gRPC configures by xDS is started by ``masche run --placement library``. gRPC reads the
    variable once, before its first channel. Waits as long as the options say. Raises NotReadyError, OptionsError.
    """
    path = (resident or residents.resident()).open_outlet()
    os.environ[BOOTSTRAP] = _own.path = str(path)
    return path


class _Own:
    """The bootstrap that this process made for itself."""

    path = ""


_own = _Own()


def _after_in_child() -> None:
    """A child is somebody else, and must not ask as its parent."""
    if _own.path and os.environ.get(BOOTSTRAP) == _own.path:
        del os.environ[BOOTSTRAP]


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_in_child)


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
