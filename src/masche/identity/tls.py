"""TLS for gRPC: server credentials that rotate, and channels that accept this mesh's control plane and nobody else.

gRPC for Python can require a client certificate or not ask for one, nothing between. So there are two kinds of server:
``mutual`` for link and xDS, and ``joining`` for machines that have no valid certificate yet. A channel verifies the
chain under the pinned roots and CONTROL_PLANE_NAME, which the authority gives to control planes alone: that is how
``spiffe://<trust domain>/control-plane`` is checked where gRPC shows no peer certificate.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import grpc

from masche.identity.presented import Presented
from masche.identity.trust import CONTROL_PLANE_NAME

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.ssl_target_name_override", CONTROL_PLANE_NAME),
    ("grpc.default_authority", CONTROL_PLANE_NAME),
)
"""What every TLS channel to a control plane must be made with, beside ``channel_credentials``."""


def mutual_server_credentials(current: Callable[[], Presented]) -> grpc.ServerCredentials:
    """A server that requires client certificates; ``current`` is asked in every handshake (from gRPC's threads)."""
    return _Fetcher(current).credentials(require_client=True)


def joining_server_credentials(current: Callable[[], Presented]) -> grpc.ServerCredentials:
    """A server that asks for no client certificate and shows its root as well, for machines that only have its pin."""

    def with_root() -> Presented:
        now = current()
        return Presented(chain=now.chain + now.roots, key=now.key, roots=now.roots)

    return _Fetcher(with_root).credentials(require_client=False)


def channel_credentials(presented: Presented) -> grpc.ChannelCredentials:
    """A channel that shows a machine credential; use it with CHANNEL_OPTIONS."""
    return grpc.ssl_channel_credentials(presented.roots.encode(), presented.key.reveal(), presented.chain.encode())


class _Fetcher:
    """Hands gRPC a new configuration when what is presented changed; None means "as before"."""

    def __init__(self, current: Callable[[], Presented]) -> None:
        self._current = current
        self._last = current()

    def credentials(self, *, require_client: bool) -> grpc.ServerCredentials:
        """Credentials that ask here in every handshake."""
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetch)  # its stub forgets None
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._last), fetch, require_client_authentication=require_client
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        now = self._current()
        if now == self._last:
            return None
        self._last = now
        return _configuration(now)


def _configuration(presented: Presented) -> grpc.ServerCertificateConfiguration:
    pair = (presented.key.reveal(), presented.chain.encode())
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=presented.roots.encode())
