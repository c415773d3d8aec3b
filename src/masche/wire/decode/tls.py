"""Decode who may answer, or call, and that it is mutual TLS (gRFC A29).

Our keys and roots never come by xDS: a context may only point at those that this process has. Invariant: a check that
is asked for and not known here is refused, and so is TLS that would take anybody's certificate.
"""

from typing import Any

from masche.wire import secret
from masche.wire.decode.reading import only, type_of, unpacked
from masche.wire.framing import WireError

UPSTREAM = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
DOWNSTREAM = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
RAW_BUFFER = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"

_COMMON = frozenset(
    {
        "tls_params", "alpn_protocols", "tls_certificate_sds_secret_configs", "tls_certificate_provider_instance",
        "tls_certificate_certificate_provider_instance", "validation_context", "combined_validation_context",
        "validation_context_sds_secret_config",
    }
)  # fmt: skip
_VALIDATION = frozenset(
    {"ca_certificate_provider_instance", "match_typed_subject_alt_names", "match_subject_alt_names"}
)
_COMBINED = frozenset(
    {
        "default_validation_context", "validation_context_sds_secret_config",
        "validation_context_certificate_provider_instance",
    }
)  # fmt: skip
_URI = 3
"""``SubjectAltNameMatcher.SanType.URI``."""


def identities(socket: Any, where: str) -> tuple[str, ...] | None:
    """Return the SPIFFE IDs of which a peer must show one; None where plaintext is asked for."""
    if not socket.HasField("typed_config") or type_of(socket.typed_config) == RAW_BUFFER:
        return _plaintext(socket, where)
    context = unpacked(socket.typed_config, UPSTREAM)
    only(context, where, {"common_tls_context", "sni", "max_session_keys", "enforce_rsa_key_usage"})
    found = _names(context.common_tls_context, where)
    if not found:
        raise WireError(f"{where}: no identity is asked for, so whoever has a certificate could answer")
    return found


def _plaintext(socket: Any, where: str) -> None:
    if socket.name not in {"", "envoy.transport_sockets.raw_buffer"}:
        raise WireError(f"{where}: the transport socket {socket.name!r} is not carried out here")


def is_mutual(socket: Any, where: str) -> bool:
    """Say whether a server's chain wants mutual TLS; False is plaintext, and TLS that asks for nobody is refused."""
    if not socket.HasField("typed_config") or type_of(socket.typed_config) == RAW_BUFFER:
        _plaintext(socket, where)
        return False
    context = unpacked(socket.typed_config, DOWNSTREAM)
    only(context, where, {"common_tls_context", "require_client_certificate", "require_sni", "ocsp_staple_policy"})
    if context.require_sni.value or context.ocsp_staple_policy:
        raise WireError(f"{where}: neither a server name nor a stapled OCSP answer can be demanded here")
    if not context.require_client_certificate.value:
        raise WireError(f"{where}: TLS without a certificate of the caller is not carried out here")
    if _names(context.common_tls_context, where):
        raise WireError(f"{where}: who may call is for policies to say, not for the handshake")
    return True


def _names(common: Any, where: str) -> tuple[str, ...]:
    """Check where certificates and roots come from, and return the names that are wanted."""
    only(common, where, _COMMON)
    for each in common.tls_certificate_sds_secret_configs:
        _ours(each.name, secret.CERTIFICATE, where)
    match common.WhichOneof("validation_context_type"):
        case "validation_context":
            return _validated(common.validation_context, where, is_rooted=False)
        case "combined_validation_context":
            return _combined(common.combined_validation_context, where)
        case "validation_context_sds_secret_config":
            _ours(common.validation_context_sds_secret_config.name, secret.ROOTS, where)
            return ()
        case _:
            raise WireError(f"{where}: nothing says which roots to trust")


def _ours(name: str, expected: str, where: str) -> None:
    if name != expected:
        raise WireError(f"{where}: the secret {name!r} is none of this process, which has {expected!r} only")


def _combined(message: Any, where: str) -> tuple[str, ...]:
    only(message, where, _COMBINED)
    is_rooted = message.HasField("validation_context_certificate_provider_instance")
    if message.HasField("validation_context_sds_secret_config"):
        _ours(message.validation_context_sds_secret_config.name, secret.ROOTS, where)
        is_rooted = True
    return _validated(message.default_validation_context, where, is_rooted=is_rooted)


def _validated(message: Any, where: str, *, is_rooted: bool) -> tuple[str, ...]:
    only(message, where, _VALIDATION)
    if not is_rooted and not message.HasField("ca_certificate_provider_instance"):
        raise WireError(f"{where}: nothing says which roots to trust")
    typed = (_typed(each, where) for each in message.match_typed_subject_alt_names)
    return (*typed, *(_exact(each, where) for each in message.match_subject_alt_names))


def _typed(message: Any, where: str) -> str:
    only(message, where, {"san_type", "matcher"})
    if message.san_type != _URI:
        raise WireError(f"{where}: a peer is known by its SPIFFE ID alone")
    return _exact(message.matcher, where)


def _exact(matcher: Any, where: str) -> str:
    only(matcher, where, {"exact"})
    if not matcher.exact.startswith("spiffe://"):
        raise WireError(f"{where}: {matcher.exact!r} is no SPIFFE ID")
    return matcher.exact
