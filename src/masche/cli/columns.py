"""What ``masche get`` shows of each kind, read from the manifest as it was written.

Invariant: a manifest with a missing or odd field still has a row; the cell is then empty.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from masche.model.refs import Kind

Manifest = Mapping[str, Any]
Cell = Callable[[Manifest], str]


def at(manifest: Any, *path: str) -> Any:
    """Follow keys; None when the way ends."""
    for key in path:
        if not isinstance(manifest, Mapping):
            return None
        manifest = cast(Manifest, manifest).get(key)
    return manifest


def _items(value: Any) -> Sequence[Any]:
    return cast(Sequence[Any], value) if isinstance(value, list | tuple) else ()


def _field(*path: str, default: str = "") -> Cell:
    def cell(manifest: Manifest) -> str:
        value = at(manifest, *path)
        return default if value is None else str(value)

    return cell


def _pairs(*path: str) -> Cell:
    def cell(manifest: Manifest) -> str:
        value = at(manifest, *path)
        return (
            ",".join(f"{key}={text}" for key, text in cast(Manifest, value).items()) if isinstance(value, dict) else ""
        )

    return cell


def _each(*path: str, of: Callable[[Any], str] = str) -> Cell:
    return lambda manifest: ",".join(of(item) for item in _items(at(manifest, *path)))


def _count(*path: str) -> Cell:
    return lambda manifest: str(len(_items(at(manifest, *path))))


def _service_port(port: Any) -> str:
    name = at(port, "name")
    return f"{name}:{at(port, 'port')}" if name else str(at(port, "port"))


def _workload_port(port: Any) -> str:
    mesh = at(port, "meshPort")
    return f"{at(port, 'port')}<-{mesh}" if mesh else str(at(port, "port"))


def _named(default: str) -> Callable[[Any], str]:
    """References to other resources, whose kind is ``default`` where none is written."""

    def cell(reference: Any) -> str:
        namespace, name = at(reference, "namespace"), at(reference, "name")
        return f"{at(reference, 'kind') or default}/{f'{namespace}/' if namespace else ''}{name}"

    return cell


def _listener(listener: Any) -> str:
    return f"{at(listener, 'protocol')}:{at(listener, 'port')}"


def _granted(item: Any) -> str:
    namespace = at(item, "namespace")
    return f"{namespace}/{at(item, 'kind')}" if namespace else str(at(item, "kind"))


def _limit(limit: Any) -> str:
    return f"{at(limit, 'requests')}/{at(limit, 'per')}"


def _fault(kind: str, what: str) -> Cell:
    def cell(manifest: Manifest) -> str:
        fault = at(manifest, "spec", kind)
        return f"{at(fault, 'percent')} % {at(fault, what)}" if fault else ""

    return cell


def _yes(*path: str) -> Cell:
    return lambda manifest: "yes" if at(manifest, *path) is True else ""


def _keys(manifest: Manifest) -> str:
    data = at(manifest, "data")
    return ",".join(cast(Manifest, data)) if isinstance(data, dict) else ""


_ROUTE: tuple[tuple[str, Cell], ...] = (
    ("parents", _each("spec", "parentRefs", of=_named("Gateway"))),
    ("hostnames", _each("spec", "hostnames")),
    ("rules", _count("spec", "rules")),
)

COLUMNS: Mapping[Kind, tuple[tuple[str, Cell], ...]] = {
    Kind.NAMESPACE: (("labels", _pairs("metadata", "labels")),),
    Kind.SERVICE: (("ports", _each("spec", "ports", of=_service_port)), ("selector", _pairs("spec", "selector"))),
    Kind.ENDPOINT_SLICE: (
        ("service", _field("metadata", "labels", "kubernetes.io/service-name")),
        ("ports", _each("ports", of=_service_port)),
        ("endpoints", _each("endpoints", of=lambda endpoint: ",".join(map(str, _items(at(endpoint, "addresses")))))),
    ),
    Kind.SECRET: (("type", _field("type", default="Opaque")), ("keys", _keys)),
    Kind.WORKLOAD: (
        ("state", _field("status", "state", default="READY")),
        ("address", _field("spec", "address")),
        ("ports", _each("spec", "ports", of=_workload_port)),
        ("account", _field("spec", "serviceAccount")),
        ("zone", _field("spec", "zone")),
        ("placement", _field("spec", "placement")),
        ("machine", _field("status", "machine")),
        ("exposed", _yes("status", "exposed")),
    ),
    Kind.GATEWAY_CLASS: (("controller", _field("spec", "controllerName")),),
    Kind.GATEWAY: (
        ("class", _field("spec", "gatewayClassName")),
        ("listeners", _each("spec", "listeners", of=_listener)),
    ),
    Kind.HTTP_ROUTE: _ROUTE,
    Kind.GRPC_ROUTE: _ROUTE,
    Kind.REFERENCE_GRANT: (("from", _each("spec", "from", of=_granted)), ("to", _each("spec", "to", of=_granted))),
    Kind.AUTHORIZATION_POLICY: (
        ("action", _field("spec", "action", default="ALLOW")),
        ("rules", _count("spec", "rules")),
        ("selector", _pairs("spec", "selector", "matchLabels")),
        ("targets", _each("spec", "targetRefs", of=_named("Service"))),
    ),
    Kind.PEER_AUTHENTICATION: (
        ("mode", _field("spec", "mtls", "mode")),
        ("selector", _pairs("spec", "selector", "matchLabels")),
    ),
    Kind.TRAFFIC_POLICY: (("targets", _each("spec", "targetRefs", of=_named("Service"))),),
    Kind.RATE_LIMIT_POLICY: (
        ("limits", _each("spec", "local", of=_limit)),
        ("selector", _pairs("spec", "selector", "matchLabels")),
        ("targets", _each("spec", "targetRefs", of=_named("Service"))),
    ),
    Kind.FAULT_POLICY: (
        ("delay", _fault("delay", "time")),
        ("abort", _fault("abort", "status")),
        ("targets", _each("spec", "targetRefs", of=_named("Service"))),
    ),
    Kind.MESH_CONFIG: (
        ("trust domain", _field("spec", "trustDomain")),
        ("mtls", _field("spec", "mtls")),
        ("outbound", _field("spec", "outboundTrafficPolicy")),
    ),
}
