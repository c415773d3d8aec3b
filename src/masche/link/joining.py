"""A machine comes in: from a join string to a machine credential, and from an old credential to a new one.

The root is fetched and compared with its pin before anything is sent, so that the token is shown to the mesh that was
meant and to nobody else. Keys are made by the caller and stay there: what is sent is requests and signatures.
"""

import asyncio
from typing import Final

import msgspec

from masche.identity import credential, dialling, pinning
from masche.identity.bundle import TrustBundle
from masche.identity.join import JoinString
from masche.identity.keys import PrivateKey, signing_request
from masche.link import messages
from masche.link.calls import JOINING, refused
from masche.link.messages import JoinReply, JoinRequest, RenewRequest
from masche.rpc.status import RpcError

TIMEOUT: Final = 15.0

MOST: Final = 1 << 20
"""Bytes that a reply may have: a chain and roots."""


async def join(joining: JoinString, machine: str, key: PrivateKey) -> JoinReply:
    """Spend the token of a join string for a credential of ``key``.

    Raises BundleError (not the mesh that was meant), RefusedError, OSError (no connection, or it was cut off in the
    middle: the token may then be spent).
    """
    bundle = await asyncio.to_thread(pinning.fetch_root, joining.host, joining.port, joining.root, timeout=TIMEOUT)
    token = joining.token.reveal().decode()
    request = JoinRequest(token=token, machine=machine, csr=signing_request(key))
    return await _ask(_target(joining.host, joining.port), bundle, "Join", request)


async def renew(target: str, bundle: TrustBundle, chain: str, old: PrivateKey, new: PrivateKey) -> JoinReply:
    """A credential of ``new`` for the machine that ``chain`` and ``old`` prove; ``target`` is ``host:port`` of Joining.

    Raises RefusedError, OSError.
    """
    csr = signing_request(new)
    request = RenewRequest(chain=chain, csr=csr, proof=credential.prove(old, chain, csr))
    return await _ask(target, bundle, "Renew", request)


async def _ask(target: str, bundle: TrustBundle, method: str, request: msgspec.Struct) -> JoinReply:
    async with dialling.joining(target, bundle.pem, max_receive_bytes=MOST) as channel:
        try:
            answer = await channel.unary(f"/{JOINING}/{method}", messages.encode(request), within=TIMEOUT)
        except RpcError as error:
            raise refused(error) from error
    return messages.decode(answer, JoinReply)


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
