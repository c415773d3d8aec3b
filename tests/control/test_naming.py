"""Who is meant in a Report: what is worked out from the last Mesh is what looking at everybody would give."""

from hypothesis import given
from hypothesis import strategies as some

from control.plant import service
from masche.control.naming import Naming, after, anew
from masche.model.ports import Entry, Snapshot
from masche.model.refs import Name
from masche.model.resources.workload import Workload
from masche.model.yaml import load
from masche.registry.merge import from_snapshot

SERVICES = """---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: shop}
spec: {selector: {mesh: "yes"}, ports: [{port: 80}]}
"""


def workload(name: str, app: str, port: int, zone: str) -> str:
    return f"""---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}, mesh: "yes"}}}}
spec: {{address: 127.0.0.2, zone: {zone}, serviceAccount: {app}, ports: [{{port: 8080, meshPort: {port}}}]}}
"""


def tables(text: str) -> tuple[dict[Name, object], dict[Name, Workload]]:
    loaded = load(text, file="mesh.yaml", namespace="shop")
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in loaded.resources)
    mesh = from_snapshot(Snapshot(revision=1, entries=tuple(entries)))
    return dict(mesh.services), dict(mesh.workloads)


KEYS = [
    (name, app, port, zone)
    for name in "pqr"
    for app in ("orders", "web", "x")
    for port in (21000, 21001)
    for zone in "ab"
]
MADE = {key: tables(workload(*key))[1][Name("shop", key[0])] for key in KEYS}
KNOWN = tables(service("web") + service("orders") + SERVICES)[0]


def collide(workloads: dict[Name, Workload]) -> bool:
    places = [each.spec.ports[0].mesh_port for each in workloads.values()]
    return len(set(places)) < len(places)


@given(some.lists(some.tuples(some.sampled_from(KEYS), some.booleans()), max_size=8))
def test_names_after_a_change_are_those_of_a_fresh_look(changes: list[tuple[tuple[str, str, int, str], bool]]) -> None:
    workloads: dict[Name, Workload] = {}
    known: Naming = anew(KNOWN, workloads)
    for key, is_gone in changes:
        name, old = Name("shop", key[0]), workloads
        workloads = {each: value for each, value in old.items() if each != name}
        if not is_gone:
            workloads[name] = MADE[key]
        fresh = anew(KNOWN, workloads)
        found = after(KNOWN, old, known, workloads)
        assert found is None or found == fresh
        assert found is not None or collide(old) or collide(workloads), "it is given up only where places collide"
        known = fresh
