"""Asks, from inside a workload's network namespace, as whom its calls arrive, and makes what the other end shows.

The question is a call like any that the workload makes: captured, given a certificate, and answered by whoever read
that certificate (``wire.witness``).
"""

import asyncio
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from masche.identity import keys
from masche.link.probe import Connect
from masche.model.blob import Blob
from masche.wire import framing, secret, witness
from masche.wire.types import SECRET

WITHIN = 5.0
"""Seconds for one question."""

_LIFETIME = timedelta(days=3650)
_QUESTION = b"GET / HTTP/1.1\r\nhost: witness\r\nconnection: close\r\n\r\n"


class NoAnswerError(Exception):
    """Nobody said as whom the call arrived; the message says why."""


async def asked(connect: Connect) -> str:
    """Return the SPIFFE ID under which a call by way of ``connect`` arrives. Raises NoAnswerError."""
    try:
        async with asyncio.timeout(WITHIN):
            return await _exchange(connect)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise NoAnswerError(str(error) or f"no answer within {WITHIN:g} s") from error


async def _exchange(connect: Connect) -> str:
    reader, writer = await connect(witness.ADDRESS, witness.PORT)
    try:
        writer.write(_QUESTION)
        status, _, head = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
    finally:
        writer.close()
    found = BytesParser().parsebytes(head, headersonly=True)[witness.PEER_HEADER]
    if found is None:
        raise NoAnswerError(f"the call was answered {status.decode(errors='replace')!r}")
    return str(found)


def certificate() -> Blob:
    """Make the secret of the other end. Nobody asks whose it is: it is this very Envoy's."""
    key, now = keys.generate(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, witness.SECRET)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .sign(key, hashes.SHA256())
    )
    pair = secret.certificate(witness.SECRET, made.public_bytes(Encoding.PEM), keys.private_pem(key).reveal())
    return framing.blob(SECRET, witness.SECRET, pair)
