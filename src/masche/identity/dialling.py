"""How a control plane is called: as whom, whom we expect there, and how soon it is noticed that it is gone.

The chain is verified under the roots of the mesh for CONTROL_PLANE_NAME, which the authority gives to control planes
alone: that is how ``spiffe://<trust domain>/control-plane`` is checked before anything is said.
"""

import ssl
from typing import Final

from masche.identity.keys import Secret
from masche.identity.presented import Presented
from masche.identity.secret_file import as_file
from masche.identity.trust import CONTROL_PLANE_NAME
from masche.rpc.channel import Channel
from masche.rpc.connection import Quiet

QUIET: Final = Quiet(10.0, 5.0)
"""One that vanished without a word is noticed within 15 s."""


def channel(address: str, presented: Presented | None, *, max_receive_bytes: int) -> Channel:
    """``host:port`` with what this machine shows, or ``unix:/path`` with None.

    Raises ValueError for another address, and ssl.SSLError (an OSError) when what is presented cannot be used.
    """
    tls = None if presented is None else context(presented.roots, presented.chain, presented.key)
    name = "" if tls is None else CONTROL_PLANE_NAME
    return Channel(address, tls=tls, name=name, quiet=QUIET, max_receive_bytes=max_receive_bytes)


def joining(address: str, roots: str, *, max_receive_bytes: int) -> Channel:
    """``host:port`` of a control plane that lets machines join, under ``roots`` (PEM), and showing nothing."""
    tls = context(roots)
    return Channel(address, tls=tls, name=CONTROL_PLANE_NAME, quiet=QUIET, max_receive_bytes=max_receive_bytes)


def context(roots: str | None, chain: str = "", key: Secret | None = None) -> ssl.SSLContext:
    """TLS of a caller of gRPC that trusts ``roots`` (PEM; None: those of the system) and shows ``chain``, if any.

    Raises ssl.SSLError when they cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.hostname_checks_common_name = False
    made.set_alpn_protocols(["h2"])
    if roots is None:
        made.load_default_certs()
    else:
        made.load_verify_locations(cadata=roots)
    if key is not None:
        # Both in one file: a chain without a key is of no use, and the key is kept out of every file system.
        with as_file(Secret(chain.encode() + b"\n" + key.reveal())) as path:
            made.load_cert_chain(path, password=_no_password)
    return made


def _no_password() -> str:
    """Instead of asking on a terminal."""
    raise ssl.SSLError("the key is encrypted, and nobody is there to decrypt it")
