"""Where nothing is known of a mesh but the pin of its root: the root is fetched, and the pin says if it is the one."""

import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from masche.identity.trust import CONTROL_PLANE_NAME

if TYPE_CHECKING:
    from masche.identity.bundle import TrustBundle


def fetch_root(host: str, port: int, pin: str, *, timeout: float = 5.0) -> "TrustBundle":
    """Connect to a joining port, once, only to see its chain, and pick the root with this SHA-256 from it.

    Nothing is believed of the connection and nothing is sent over it; the pin decides. Blocks. Raises BundleError when
    the root is not shown, OSError (with ssl.SSLError) when there is no TLS server.
    """
    from masche.identity.bundle import TrustBundle, pinned_root  # only who joins reads roots

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=timeout) as plain,
        context.wrap_socket(plain, server_hostname=CONTROL_PLANE_NAME) as encrypted,
    ):
        root = pinned_root(_shown_chain(encrypted), pin)
    return TrustBundle.of_root(root)


def _shown_chain(encrypted: ssl.SSLSocket) -> Sequence[bytes]:
    """The chain as the server sent it, in DER. Public from Python 3.13 on, and by another name since 3.10."""
    shown: Any = encrypted
    if hasattr(shown, "get_unverified_chain"):
        return cast("list[bytes]", shown.get_unverified_chain())
    certificates = shown._sslobj.get_unverified_chain()
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in certificates]
