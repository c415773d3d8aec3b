"""Loads a story: a mesh as people write it, and the requests that somebody makes in it with what must become of them.

A story is a folder with ``mesh.yaml``, ``requests.yaml`` and golden files made from them (``make accept``). Workloads
in ``mesh.yaml`` are the callers and the callees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from masche.compiler.endpoints import endpoints
from masche.compiler.vantage import stand
from masche.compiler.view import statuses, view
from masche.compiler.why import Call
from masche.model.mesh import Mesh
from masche.model.ports import Entry, Snapshot
from masche.model.refs import Name, Origin, PortRef, Ref
from masche.model.resources.workload import Workload
from masche.model.steering import NO_STEERING
from masche.model.vantage import Placement, Vantage
from masche.model.view import View
from masche.model.yaml import load
from masche.registry.merge import from_snapshot
from stories.envoy_golden import on_one_node, resources

ROOT = Path(__file__).parent

ON_ONE_NODE = {"deny-by-principal", "tcp-service", "permissive", "rate-limits"}
"""Stories that are also written down as the one Envoy of a machine reads them that serves all of their Workloads."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of a story: who makes it, through which gateway if any, and what must come of it."""

    source: Name
    call: Call
    expect: dict[str, Any]
    gateway: Name | None = None

    def __str__(self) -> str:
        port = f":{self.call.port}" if self.call.port else ""
        return f"{self.source.name} {self.call.method} {self.call.host}{port}{self.call.path}"


@dataclass(frozen=True, kw_only=True)
class Story:
    """A mesh and what is asked of it."""

    name: str
    mesh: Mesh
    requests: tuple[Asked, ...]
    gateways: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return ROOT / self.name

    def vantages(self) -> Iterator[tuple[Workload, Vantage]]:
        """Where each of its Workloads stands, sorted by name."""
        for name, workload in sorted(self.mesh.workloads.items()):
            gateway = self.gateways.get(str(name))
            placement = Placement.GATEWAY if gateway else workload.spec.placement or Placement.SIDECAR
            yield workload, stand(self.mesh, workload, placement=placement, gateway=named(gateway) if gateway else None)

    def seated(self) -> Iterator[tuple[Workload, View]]:
        """Each Workload that has a proxy, with what it must be given."""
        for workload, vantage in self.vantages():
            if workload.spec.tls == "MUTUAL":
                yield workload, view(self.mesh, vantage)

    def views(self) -> dict[str, View]:
        """What each of its Workloads must be given."""
        return {str(workload.name): view(self.mesh, vantage) for workload, vantage in self.vantages()}


def names() -> list[str]:
    """All stories."""
    return sorted(path.parent.name for path in ROOT.glob("*/mesh.yaml"))


@lru_cache(maxsize=128)
def story(name: str) -> Story:
    """Load one story; what is wrong with its YAML fails here."""
    asked = yaml.load((ROOT / name / "requests.yaml").read_text(), Loader=yaml.CSafeLoader)
    requests = tuple(_asked(each) for each in asked)
    return Story(
        name=name,
        mesh=read_mesh((ROOT / name / "mesh.yaml").read_text(), file=f"{name}/mesh.yaml"),
        requests=requests,
        gateways={str(each.source): str(each.gateway) for each in requests if each.gateway},
    )


def read_mesh(text: str, *, file: str, namespace: str = "default") -> Mesh:
    """Make a Mesh of YAML; errors fail, warnings do not."""
    loaded = load(text, file=file, namespace=namespace)
    assert not loaded.errors, "\n".join(map(str, loaded.errors))
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in loaded.resources)
    return from_snapshot(Snapshot(revision=1, entries=tuple(entries)))


def named(text: str) -> Name:
    """Read ``namespace/name``."""
    return Name(*text.split("/"))


def _asked(each: dict[str, Any]) -> Asked:
    return Asked(
        source=named(each["from"]),
        gateway=named(each["gateway"]) if "gateway" in each else None,
        call=Call(
            host=each["host"],
            port=each.get("port", 0),
            method=each.get("method", "GET"),
            path=each.get("path", "/"),
            headers=tuple((key, str(value)) for key, value in each.get("headers", {}).items()),
        ),
        expect=each["expect"],
    )


# ------------------------------------------------------------------------------------------------------ golden files


def golden(name: str) -> dict[str, str]:
    """Return the golden files of a story as they should be, by file name."""
    told = story(name)
    views = {workload: plain(each) for workload, each in told.views().items()}
    ports = sorted({each.service for one in told.views().values() for each in one.clusters})
    instances = {str(port): plain(endpoints(told.mesh, NO_STEERING, port, "").localities) for port in ports}
    return {
        "view.yaml": _yaml({"views": views, "endpoints": instances}),
        "envoy.yaml": _yaml(resources(told.mesh, told.seated())),
        "status.yaml": _yaml([plain(each) for each in statuses(told.mesh)]),
        **({"node.yaml": _yaml(on_one_node(told.mesh))} if name in ON_ONE_NODE else {}),
    }


def accept(name: str) -> list[str]:
    """Rewrite the golden files of a story and return the names of those that changed."""
    changed: list[str] = []
    for file, text in golden(name).items():
        path = ROOT / name / file
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(f"{name}/{file}")
    return changed


def plain(value: Any) -> Any:
    """Turn a noun into plain data. What is as it always is, and where things came from in detail, is left out."""
    if isinstance(value, (Ref, Name, PortRef, Origin)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {
            each.name: plain(getattr(value, each.name))
            for each in fields(value)
            if getattr(value, each.name) != each.default and getattr(value, each.name) not in ((), None, "")
        }
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
