"""Encode who a connection belongs to where one proxy serves several workloads: written down when it is captured, and
read when a certificate is chosen, when a policy is asked, and when it is told of.

What is written down travels with the connection as Envoy's filter state. Invariant: what tells workloads apart is
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

SOURCE, ADDRESS = "masche.source", "masche.source.address"
"""The address from which it called: as text, by which connections are told apart, and as policies compare it."""

CERTIFICATE = "envoy.tls.certificate_mappers.on_demand_secret"
"""The name of the secret whose certificate is shown; the key is Envoy's own."""

NOBODY = "nobody"
"""The secret that a connection without an identity asks for. It is never issued, so there is no such connection."""

HASHABLE = "envoy.hashable_string"

_FROM = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"

PEER_VALUE = f"%FILTER_STATE({PEER}:PLAIN)%"
SOURCE_VALUE = f"%FILTER_STATE({SOURCE}:PLAIN)%"

_FILTER_STATE = "envoy.extensions.filters.network.set_filter_state.v3.Config"
_SELECTOR = "envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config"
_BY_STATE = "envoy.extensions.transport_sockets.tls.cert_mappers.filter_state_override.v3.Config"
_BY_NAME = "envoy.extensions.transport_sockets.tls.cert_mappers.static_name.v3.StaticName"


def introduced(seated: Seated, identity: str) -> Body:
    """Return the network filter that says whose connection this is; the first of its chain."""
    said = [_said(CALLER, literal(str(seated.workload)))]
    if seated.is_shared:
        said = introduction(str(seated.workload), seated.certificate, identity)
    return extension("envoy.filters.network.set_filter_state", _FILTER_STATE, {"on_new_connection": said})


def introduction(workload: str = "", certificate: str = "", identity: str = "") -> list[dict[str, Json]]:
    """Return all that is written down of a connection on a proxy that serves several workloads, in order."""
    return [
        _said(CALLER, literal(workload)),
        # Carried on to the gateway of a detour, to which the caller shows its certificate as well.
        {**_said(CERTIFICATE, literal(certificate)), "shared_with_upstream": "TRANSITIVE"},
        {**_said(PEER, literal(identity)), "shared_with_upstream": "ONCE"},
        {**_said(SOURCE, _FROM), "shared_with_upstream": "ONCE"},
        {**_said(ADDRESS, _FROM, factory="envoy.network.ip"), "shared_with_upstream": "ONCE"},
    ]


INTRODUCTION = (CALLER, CERTIFICATE, PEER, SOURCE, ADDRESS)
"""The keys of it."""


def _said(key: str, value: str, *, factory: str = HASHABLE) -> dict[str, Json]:
    return {
        "object_key": key,
        "factory_key": factory,
        "format_string": {"text_format_source": {"inline_string": value}},
    }


OWN_CERTIFICATE: Body = {
    "tls_certificate_sds_secret_configs": [{"name": secret.CERTIFICATE, "sds_config": ADS_WAIT}],
}
"""Fields of a CommonTlsContext that shows the one certificate there is, whoever's connection it is."""


def _chosen(mapper: Body, *prefetched: str) -> Body:
    chosen: Body = {"config_source": ADS_WAIT, "certificate_mapper": mapper, "prefetch_secret_names": list(prefetched)}
    selector = extension("envoy.tls.certificate_selectors.on_demand_secret", _SELECTOR, chosen)
    return {"custom_tls_certificate_selector": selector}


CALLERS_CERTIFICATE = _chosen(
    extension("envoy.tls.upstream_certificate_mappers.filter_state_override", _BY_STATE, {"default_value": NOBODY})
)
"""The same where several workloads call through one cluster: the certificate of whoever opened the connection.

The secret is fetched at the first handshake, so a workload that comes changes no cluster.
"""


def served_certificate(seated: Seated) -> Body:
    """Return fields of a DownstreamTlsContext's ``common_tls_context``: the certificate of a workload that is called.

    Where several share a proxy it is fetched in the very way in which the clusters fetch it. Envoy keeps a second
    subscription for what is fetched in another way, asks for a name once only, and so the second would wait for ever.
    """
    return _fetched(seated.certificate, seated.certificate) if seated.is_shared else OWN_CERTIFICATE


def fetched_certificate(name: str) -> Body:
    """Return the same for the certificate of this name, fetched at the first handshake: nobody waits for it."""
    return _fetched(name)


def _fetched(name: str, *prefetched: str) -> Body:
    return _chosen(extension("envoy.tls.certificate_mappers.static_name", _BY_NAME, {"name": name}), *prefetched)


NO_TICKETS: Body = {"disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True}
"""Fields of a DownstreamTlsContext whose certificate is fetched so, as Envoy demands."""

NO_RESUMPTION: Body = {"max_session_keys": 0}
"""A resumed TLS session has the identity of the one that it resumes, and a cluster has one store of sessions."""
