"""Encode who a connection belongs to where one proxy serves several workloads: written down when it is captured, and
read when a certificate is chosen, when a policy is asked, and when it is told of.

What is written down travels with the connection as Envoy's filter state. Invariant: what chooses the certificate is
hashable, always: Envoy gives an open connection to whoever's hashable filter state is the same, and of other filter
state it takes no notice, so that one workload's requests would go out under the certificate of another.
"""

from masche.compiler.envoy.parts import ADS_WAIT, extension, literal
from masche.compiler.envoy.seated import Seated
from masche.wire import secret
from masche.wire.messages import Body, Json

CALLER = "masche.caller"
"""The name of the calling workload, on its own proxy alone: for those who want its calls to stay with one instance."""

PEER = "masche.peer"
"""The caller's SPIFFE ID, known by the network namespace, or the address, from which it called."""

SOURCE = "masche.source"
"""The address from which it called."""

CERTIFICATE = "envoy.tls.certificate_mappers.on_demand_secret"
"""The name of the secret whose certificate is shown; the key is Envoy's own."""

NOBODY = "nobody"
"""The secret that a connection without an identity asks for. It is never issued, so there is no such connection."""

HASHABLE = "envoy.hashable_string"

PEER_VALUE = f"%FILTER_STATE({PEER}:PLAIN)%"
SOURCE_VALUE = f"%FILTER_STATE({SOURCE}:PLAIN)%"

_FILTER_STATE = "envoy.extensions.filters.network.set_filter_state.v3.Config"
_SELECTOR = "envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config"
_MAPPER = "envoy.extensions.transport_sockets.tls.cert_mappers.filter_state_override.v3.Config"


def introduced(seated: Seated, identity: str) -> Body:
    """Return the network filter that says whose connection this is; the first of its chain."""
    said = [_said(CALLER, literal(str(seated.workload)))]
    if seated.is_shared:
        said += [
            # Carried on to the gateway of a detour, to which the caller shows its certificate as well.
            {**_said(CERTIFICATE, literal(seated.certificate)), "shared_with_upstream": "TRANSITIVE"},
            {**_said(PEER, literal(identity)), "shared_with_upstream": "ONCE"},
            {
                **_said(SOURCE, "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", factory="envoy.network.ip"),
                "shared_with_upstream": "ONCE",
            },
        ]
    return extension("envoy.filters.network.set_filter_state", _FILTER_STATE, {"on_new_connection": said})


def _said(key: str, value: str, *, factory: str = HASHABLE) -> dict[str, Json]:
    return {
        "object_key": key,
        "factory_key": factory,
        "format_string": {"text_format_source": {"inline_string": value}},
    }


def own_certificate(name: str = secret.CERTIFICATE) -> Body:
    """Return the fields of a CommonTlsContext that shows one certificate, whoever's connection it is."""
    return {"tls_certificate_sds_secret_configs": [{"name": name, "sds_config": ADS_WAIT}]}


def _callers_certificate() -> Body:
    mapper = extension(
        "envoy.tls.upstream_certificate_mappers.filter_state_override", _MAPPER, {"default_value": NOBODY}
    )
    chosen: Body = {"config_source": ADS_WAIT, "certificate_mapper": mapper}
    selector = extension("envoy.tls.certificate_selectors.on_demand_secret", _SELECTOR, chosen)
    return {"custom_tls_certificate_selector": selector}


CALLERS_CERTIFICATE = _callers_certificate()
"""The same where several workloads call through one cluster: the certificate of whoever opened the connection.

The secret is fetched at the first handshake, so a workload that comes changes no cluster.
"""

NO_RESUMPTION: Body = {"max_session_keys": 0}
"""A resumed TLS session has the identity of the one that it resumes, and a cluster has one store of sessions."""
