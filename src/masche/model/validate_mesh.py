"""The rules of masche's own kinds (Workload, TrafficPolicy, MeshConfig) that connect their fields."""

import re
from ipaddress import ip_address

from masche.model.resources.mesh_config import MeshConfig
from masche.model.spot import Beyond, Finding, Findings, Spot, distinct
from masche.model.validate_traffic import settings

_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DEPENDENCY = re.compile(rf"{_LABEL}(\.{_LABEL})?")


def workload(workload: Spot) -> Findings:
    """Everything about one Workload."""
    spec = workload["spec"]
    yield from _address(spec["address"])
    ports = spec["ports"]
    if spec.is_there and not ports.length:
        yield spec.invalid("a Workload without ports can be called by nobody", "add ports", code="invalid-missing")
    yield from distinct(ports, "name")
    yield from distinct(ports, "port")
    yield from distinct(ports, "meshPort")
    for port in ports:
        if ports.length > 1 and not port["name"].text():
            yield port.invalid("a Workload with several ports names each of them", "add a name", code="invalid-missing")
        if port.has("meshPort") and spec["tls"].text() == "DISABLE":
            why = "a Workload with tls: DISABLE has no proxy that could listen there"
            yield port["meshPort"].invalid(why, "remove meshPort, or tls")
    for dependency in spec["dependencies"]:
        if not _DEPENDENCY.fullmatch(dependency.text("a")):
            why = f"{dependency.text()[:80]!r} names no Service"
            yield dependency.invalid(why, "write SERVICE or SERVICE.NAMESPACE", code="invalid-value")
    yield from distinct(spec["dependencies"])


def _address(address: Spot) -> Findings:
    try:
        found = ip_address(address.text("127.0.0.1"))
    except ValueError:
        yield address.invalid("must be an IP address", "write the address of the instance", code="invalid-value")
        return
    if found.is_unspecified or found.is_multicast:
        why = f"nobody can connect to {found}"
        yield address.invalid(why, "write the address of the instance", code="invalid-value")


def traffic_policy(policy: Spot) -> Findings:
    """Everything about one TrafficPolicy."""
    spec = policy["spec"]
    yield from service_targets(spec["targetRefs"])
    yield from settings(spec)


def service_targets(targets: Spot) -> Findings:
    """Targets of a policy that may be Services alone, each of them once."""
    for target in targets:
        if (target["group"].text(), target["kind"].text("Service")) != ("", "Service"):
            yield target.not_carried_out(f"a target of kind {target['kind'].text()}", "name a Service")
    yield from distinct(targets, "name")


def mesh_config(config: Spot) -> Findings:
    """Everything about one MeshConfig."""
    name = config["metadata"]["name"]
    if name.is_there and name.text() != MeshConfig.NAME:
        why = f"there is one MeshConfig, named {MeshConfig.NAME}"
        yield name.invalid(why, f"write name: {MeshConfig.NAME}", code="invalid-value")
    yield from settings(config["spec"]["defaults"])


def _later(spot: Spot) -> Finding:
    return spot.not_carried_out(str(spot.path[-1]), "remove it")


TRAFFIC_BEYOND: Beyond = {
    ("spec", name): _later
    for name in (
        "retries", "retry", "priorities",
    )
}  # fmt: skip
