"""A detour for httpcore: a network backend whose connections begin at a gateway between zones.

httpcore asks it for a connection to an instance and then for TLS on that; what it gets is the tunnel, in which httpcore
itself makes TLS, as it does behind an HTTPS proxy. Invariant: as for ``ways_async`` and ``ways_sync``.
"""

from typing import Any

from masche.library.core.ports import Identity
from masche.library.core.ways import Consent, Way, WayError, request

_PIECE = 16 * 1024


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class SyncBackend:
    """For a ConnectionPool of ``core``, which is httpcore or httpcore2."""

    def __init__(self, core: Any, way: Way, identity: Identity) -> None:
        self._core, self._way, self._identity = core, way, identity
        self._direct = core.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> Any:
        """Return a tunnel to the instance at ``host`` and ``port``. Raises httpcore's exceptions."""
        context = self._identity.client_context(self._way.identities)
        endpoint = _endpoint(host, port)
        consent = Consent(self._way, endpoint)
        stream = self._direct.connect_tcp(*self._way.address, timeout, local_address, socket_options)
        stream = stream.start_tls(context, timeout=timeout)
        try:
            stream.write(request(endpoint), timeout)
            while not consent.read(stream.read(_PIECE, timeout)):
                pass
        except BaseException as error:
            stream.close()
            if (told := _unreached(self._core, error)) is not None:
                raise told from error
            raise
        return stream

    def sleep(self, seconds: float) -> None:
        """Between httpcore's own attempts, of which we ask for none."""
        self._direct.sleep(seconds)


def _unreached(core: Any, error: BaseException) -> Exception | None:
    """What failed at the gateway has not reached the instance: it is said as a connection that was not made."""
    made: Exception | None = None
    if isinstance(error, core.TimeoutException):
        made = core.ConnectTimeout(f"no answer in time: {error}")
    elif isinstance(error, WayError | core.NetworkError):
        made = core.ConnectError(str(error))
    return made
