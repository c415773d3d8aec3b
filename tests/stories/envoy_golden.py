"""A story as Envoy reads it: every Blob of every proxy, decoded, with what all of them carry alike left out.

What is left out is named where it stood (``as: [...]``), and only when it is whole: a connection manager that lacks
one limit shows all others.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from masche.compiler.east_west import reach
from masche.compiler.endpoints import endpoints
from masche.compiler.envoy import clusters, edge, shared, tunnels
from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.envoy.detours import TUNNEL_WINDOWS
from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.parts import ADS, ADS_WAIT
from masche.compiler.envoy.retries import retry_policy
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.model.blob import Blob
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.resources.workload import Workload
from masche.model.steering import NO_STEERING
from masche.model.vantage import Capture, LocalPort, Placement, Seat, SeatPort
from masche.model.view import Cluster, Forward, Protocol, Retry, View
from masche.wire.messages import Body, decode, encode
from masche.wire.types import MAKE_BEFORE_BREAK

FIRST_LOCAL_PORT = 20_001
PROXY_PORT = 15_001


def resources(mesh: Mesh, seated: Iterable[tuple[Workload, View]]) -> list[dict[str, Any]]:
    """Return every resource that some proxy holds, each once, with the proxies that hold it just so."""
    holders: dict[tuple[int, str, str], tuple[Any, list[str]]] = {}
    for workload, told in seated:
        for blob in blobs(mesh, told, seat(workload, told)):
            body = readable(decoded(blob))
            key = (MAKE_BEFORE_BREAK.index(blob.type_url), blob.name, json.dumps(body, sort_keys=True))
            holders.setdefault(key, (body, []))[1].append(str(workload.name))
    return [
        {"resource": f"{MAKE_BEFORE_BREAK[rank].rpartition('.')[2]} {name}", "for": proxies, "is": body}
        for (rank, name, _), (body, proxies) in sorted(holders.items(), key=lambda each: each[0])
    ]


def on_one_node(mesh: Mesh) -> list[dict[str, Any]]:
    """Return every resource of the one proxy that serves all Workloads of a mesh, with those for whom it is there."""
    mine = {name: each for name, each in sorted(mesh.workloads.items()) if each.spec.tls == "MUTUAL"}
    here = frozenset(map(str, mine))
    holders: dict[tuple[int, str], tuple[Any, list[str]]] = {}
    for workload in mine.values():
        told = view(mesh, stand(mesh, workload, placement=Placement.NODE))
        instances = (endpoints(mesh, NO_STEERING, each.service, workload.spec.zone) for each in told.clusters)
        encoded = (encoded_endpoints.blob(each, local=here) for each in instances)
        for blob in (*shared.blobs(told), *encoded, *listeners(told, captured_seat(workload))):
            body, whose = readable(decoded(blob)), str(workload.name)
            key = MAKE_BEFORE_BREAK.index(blob.type_url), blob.name
            before, holding = holders.setdefault(key, (body, []))
            assert before == body, f"two workloads want another {blob.name}"
            holding.append(whose)
    return [
        {"resource": f"{MAKE_BEFORE_BREAK[rank].rpartition('.')[2]} {name}", "for": whose, "is": body}
        for (rank, name), (body, whose) in sorted(holders.items(), key=lambda each: each[0])
    ]


def captured_seat(workload: Workload) -> Seat:
    """A seat on a node, in a network namespace of its own."""
    spec = workload.spec
    return Seat(
        workload=Name(*workload.name),
        bind=spec.address,
        ports=tuple(
            SeatPort(name=port.name, app_port=port.port, mesh_port=port.mesh_port or port.port) for port in spec.ports
        ),
        namespace_path=f"/var/run/netns/{workload.metadata.name}",
        capture=Capture(port=15001, inbound_port=15006, has_ipv6=True),
    )


def blobs(mesh: Mesh, told: View, at: Seat) -> Iterator[Blob]:
    """All Blobs of one proxy but its secrets."""
    yield from shared.blobs(told)
    for each in told.clusters:
        yield encoded_endpoints.blob(endpoints(mesh, NO_STEERING, each.service, told.vantage.zone))
    yield from listeners(told, at)
    if told.vantage.is_east_west:
        yield from tunnels.tables(reach(mesh))


def seat(workload: Workload, told: View) -> Seat:
    """A seat whose ports are the same in every run."""
    spec = workload.spec
    return Seat(
        workload=Name(*workload.name),
        bind=spec.address,
        ports=tuple(
            SeatPort(name=port.name, app_port=port.port, mesh_port=port.mesh_port or port.port) for port in spec.ports
        ),
        proxy_port=PROXY_PORT,
        local_ports=tuple(
            LocalPort(service=way.service, port=FIRST_LOCAL_PORT + index) for index, way in enumerate(told.outbound)
        ),
        gateway_ports=tuple((each.port, each.port) for each in told.gateway),
    )


def decoded(blob: Blob) -> Any:
    """Return the resource as protobuf's JSON mapping shows it, in plain containers, sorted."""
    frame = blob.frame[blob.any_at :]
    start = next(index for index in range(1, len(frame)) if not frame[index] & 0x80) + 1
    packed = AnyMessage.FromString(frame[start:])
    return json.loads(json.dumps(decode(packed.type_url.rpartition("/")[2], packed.value), sort_keys=True))


# -- what is the same everywhere --------------------------------------------------------------------------------------


def _shown(type_name: str, body: Body) -> Mapping[str, Any]:
    return json.loads(json.dumps(decode(type_name, encode(type_name, body))))


_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def _cluster() -> Mapping[str, Any]:
    """A cluster about which nobody said anything, but for its name and who may answer."""
    body = decoded(clusters.cluster(Cluster(service=PortRef("", "", 0), protocol=Protocol.HTTP, identities=("",))))
    own = {"name", "transport_socket", "eds_cluster_config"}
    return {key: value for key, value in body.items() if key not in own}


def _retries(*, is_idempotent: bool) -> Mapping[str, Any]:
    policy = retry_policy(Forward(backends=(), retry=Retry()), is_idempotent=is_idempotent)["retry_policy"]
    assert isinstance(policy, Mapping)
    return _shown("envoy.config.route.v3.RetryPolicy", policy)


_ALIKE: Mapping[str, Mapping[str, Any]] = {
    "every listener": _shown("envoy.config.listener.v3.Listener", edge.LISTENER),
    "every connection manager": _shown(_MANAGER, edge.CONNECTION_MANAGER),
    "every connection manager, with the windows of tunnels": _shown(
        _MANAGER, {**edge.CONNECTION_MANAGER, "http2_protocol_options": {**edge.HTTP2, **TUNNEL_WINDOWS}}
    ),
    "every cluster of HTTP": _cluster(),
    "every HTTP/2 client": _shown("envoy.config.core.v3.Http2ProtocolOptions", clusters.HTTP2_UPSTREAM),
}
_WORDS = [
    (_shown("envoy.config.core.v3.ConfigSource", ADS), "ads"),
    (_shown("envoy.config.core.v3.ConfigSource", ADS_WAIT), "ads, however long it takes"),
    (_retries(is_idempotent=False), "what was never sent"),
    (_retries(is_idempotent=True), "what was never sent, or got no answer"),
]


def readable(value: Any) -> Any:
    """Leave out what ``_ALIKE`` says, shorten types and sources, and keep the names alone of access logs."""
    if isinstance(value, list):
        return [readable(each) for each in value]
    if isinstance(value, str):
        return value.removeprefix("type.googleapis.com/")
    if not isinstance(value, dict):
        return value
    for known, word in _WORDS:
        if value == known:
            return word
    left, omitted = dict(value), []
    for name, alike in _ALIKE.items():
        if all(left.get(key) == each for key, each in alike.items()):
            left = {key: each for key, each in left.items() if key not in alike}
            omitted.append(name)
    for log in {"access_log", "upstream_log"} & left.keys():
        left[log] = [each["name"] for each in left[log]]
    shown = {key: readable(each) for key, each in left.items()}
    return {"as": omitted, **shown} if omitted else shown
