"""Encode the secrets that an agent answers its Envoy with: a workload's certificate, and the roots it may trust.

Only the small descriptor subset is loaded. Invariant: what is returned goes to Envoy's Unix socket and nowhere else.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from masche.model.refs import Name
from masche.wire.types import PREFIX

if TYPE_CHECKING:
    from masche.wire.messages import Body

CERTIFICATE = "default"
"""The name of the secret that holds the workload's certificate and key."""


def certificate_of(workload: Name) -> str:
    """Return the name of that secret on a proxy that serves several workloads."""
    return f"{_OF_WORKLOADS}{workload}"


def is_workloads(name: str) -> bool:
    """Return whether it is the name of such a one."""
    return name.startswith(_OF_WORKLOADS)


_OF_WORKLOADS = "workload/"


ROOTS = "ROOTCA"
"""The name of the secret that holds the trust bundles; it serves inbound and outbound alike."""

_MESSAGE = "envoy.extensions.transport_sockets.tls.v3.Secret"
_SPIFFE = f"{PREFIX}envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"


def certificate(name: str, chain_pem: bytes, key_pem: bytes) -> bytes:
    """Return a Secret with a certificate chain, leaf first, and its private key."""
    body = {
        "name": name,
        "tls_certificate": {
            "certificate_chain": {"inline_bytes": chain_pem},
            "private_key": {"inline_bytes": key_pem},
        },
    }
    return _encoded(body)


def roots(name: str, bundles: Mapping[str, bytes]) -> bytes:
    """Return a Secret that trusts, for each trust domain, the roots of its PEM bundle (two while one is replaced).

    SPIFFE, X.509-SVID 5: "the trust bundle [of] the trust domain of the SVID" verifies it, and no other; Envoy's SPIFFE
    validator does that, and one secret of this kind is right for both directions.
    """
    domains = [{"name": domain, "trust_bundle": {"inline_bytes": bundle}} for domain, bundle in sorted(bundles.items())]
    validator = {
        "name": "envoy.tls.cert_validator.spiffe",
        "typed_config": {"@type": _SPIFFE, "trust_domains": domains},
    }
    return _encoded({"name": name, "validation_context": {"custom_validator_config": validator}})


def _encoded(body: "Body") -> bytes:
    from masche.wire.messages import encode  # who only knows the names of secrets needs no encoder
    from masche.wire.pool import DISCOVERY

    return encode(_MESSAGE, body, DISCOVERY)
