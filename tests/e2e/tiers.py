"""Instances of ``servers/tier.py``: how they answer, and what they saw."""

import json
import sys
from typing import Any

from e2e.calling import call
from e2e.mesh import SERVERS, Instance, Mesh

TIER = (sys.executable, str(SERVERS / "tier.py"))


def start(mesh: Mesh, service: str, *, next_: str = "", name: str = "", flaps: bool = False, **more: Any) -> Instance:
    """Start one; ``next_`` is the service that it asks."""
    env = {"NEXT": f"{next_.upper()}_URL"} if next_ else {}
    env |= {"FLAPS": "1"} if flaps else {}
    return mesh.run(service, TIER, name=name, env=env, **more)


def answers(*tiers: Instance, status: int = 200, ms: int = 0) -> None:
    """Let them answer so from now on."""
    for each in tiers:
        call(f"http://127.0.0.1:{each.app_port}/-/set?status={status}&ms={ms}")


def seen(tier: Instance, what: str = "requests") -> int:
    """One number of what it saw."""
    return json.loads(call(f"http://127.0.0.1:{tier.app_port}/-/seen").body)[what]


def requests(*tiers: Instance) -> int:
    """How many requests they got together."""
    return sum(map(seen, tiers))


def policy(service: str, **spec: Any) -> str:
    """YAML of a TrafficPolicy for one Service."""
    spec = {"targetRefs": [{"kind": "Service", "group": "", "name": service}], **spec}
    return _yaml("masche.dev/v1", "TrafficPolicy", service, spec)


def route(service: str, name: str = "", **rule: Any) -> str:
    """YAML of an HTTPRoute with one rule for calls of one Service; it leads there unless it says otherwise."""
    rule = {"backendRefs": [{"name": service, "port": 80}], **rule}
    parent = {"kind": "Service", "group": "", "name": service}
    return _yaml(
        "gateway.networking.k8s.io/v1", "HTTPRoute", name or service, {"parentRefs": [parent], "rules": [rule]}
    )


def _yaml(version: str, kind: str, name: str, spec: dict[str, Any]) -> str:
    """JSON is YAML."""
    metadata = {"name": name, "namespace": "shop"}
    return f"\n---\n{json.dumps({'apiVersion': version, 'kind': kind, 'metadata': metadata, 'spec': spec})}\n"
