"""What a node proxy must hold: the union of its workloads, its own endpoints, and of a newcomer nothing but its own."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.plant import service
from control.test_compilation import put
from masche.compiler.vantage import stand
from masche.control import beside
from masche.control.beside import Beside
from masche.control.compilation import Compilation, Place
from masche.control.unions import Union
from masche.model.blob import Blob
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.vantage import Capture, Placement, Seat, SeatPort
from masche.model.view import Endpoints
from masche.registry.merge import endpoints_only
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER
from masche.xds.wanted import Table, Wanted

CONFIG = """---
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {{name: default}}
spec: {{sameMachine: {way}, onDemandAbove: 1}}
"""

WORKLOAD = """---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec: {{address: 10.1.0.{machine}, serviceAccount: {app}, ports: [{{name: http, port: 8080, meshPort: {port}}}]}}
"""


def workload(app: str, number: int = 1, machine: int = 1) -> str:
    return WORKLOAD.format(name=f"{app}-{number}", app=app, machine=machine, port=21000 + sum(app.encode()) + number)


def place(mesh: Mesh, name: str) -> Place:
    found = mesh.workloads[Name("shop", name)]
    seat = Seat(
        workload=found.name,
        bind=found.spec.address,
        ports=(SeatPort(name="http", app_port=8080, mesh_port=found.spec.ports[0].mesh_port or 0),),
        namespace_path=f"/var/run/netns/{name}",
        capture=Capture(port=15001, inbound_port=15006),
    )
    return stand(mesh, found, placement=Placement.NODE), seat


def node(compilation: Compilation, *names: str) -> Wanted:
    return compilation.wanted(tuple(place(compilation.mesh, name) for name in names))


def compiled(*texts: str) -> Compilation:
    compilation = Compilation()
    compilation.settle(put(Mesh(), "".join(texts)), endpoints_alone=False)
    return compilation


def learn(compilation: Compilation, text: str) -> None:
    before = compilation.mesh
    after = put(before, text)
    compilation.settle(after, endpoints_alone=endpoints_only(before, after))


def versions(wanted: Wanted) -> dict[tuple[str, str], str]:
    return {(kind, name): blob.version for kind, table in wanted.items() for name, blob in table.items()}


SHOP = "".join((service("web"), service("orders"), service("stock"), workload("web"), workload("orders")))


# -- the newcomer -------------------------------------------------------------------------------------------------


def test_a_newcomer_changes_nothing_of_the_others() -> None:
    compilation = compiled(SHOP)
    before = versions(node(compilation, "web-1", "orders-1"))
    learn(compilation, workload("stock"))
    after = versions(node(compilation, "web-1", "orders-1", "stock-1"))
    changed = {name for (kind, name) in after if after[kind, name] != before.get((kind, name))}
    assert {name for name in changed if "stock" not in name} == set()
    assert before.keys() <= after.keys()
    assert (ENDPOINTS, "outbound/shop/stock/80") in before


@settings(max_examples=40, deadline=None)
@given(st.permutations(["web", "orders", "stock", "cart"]), st.integers(1, 3), st.sampled_from(["local", "tls"]))
def test_in_whatever_order_they_come_and_go_each_adds_and_takes_only_its_own(
    apps: list[str], number: int, way: str
) -> None:
    services = "".join(map(service, apps))
    compilation = compiled(CONFIG.format(way=way), services, *map(workload, apps))
    names = [f"{app}-1" for app in apps]
    everybody = versions(node(compilation, *names))
    some = versions(node(compilation, *names[:number]))
    for key, version in some.items():
        gone = [app for app in apps[number:] if app in key[1]]
        assert everybody[key] == version or gone, key
    for (_, name), _ in everybody.items() - some.items():
        assert any(app in name for app in apps[number:]), name


def test_the_last_of_many_encodes_only_what_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    real = beside.encoded.blob

    def blob(found: Endpoints, *, local: frozenset[str] = frozenset()) -> Blob:
        encoded.extend([found.service.service] if local else [])
        return real(found, local=local)

    monkeypatch.setattr(beside.encoded, "blob", blob)
    apps = [f"app{number:02}" for number in range(40)]
    compilation = compiled(*map(service, apps), *map(workload, apps[:-1]))
    names = [f"{app}-1" for app in apps]
    node(compilation, *names[:-1])
    assert sorted(encoded) == apps[:-1]
    encoded.clear()
    learn(compilation, workload(apps[-1]))
    node(compilation, *names)
    assert encoded == [apps[-1]]


def test_asking_again_is_answered_with_the_very_same_object() -> None:
    compilation = compiled(SHOP)
    wanted = node(compilation, "web-1", "orders-1")
    learn(compilation, service("web"))
    assert node(compilation, "web-1", "orders-1") is wanted


# -- local endpoints ----------------------------------------------------------------------------------------------


def endpoint(wanted: Wanted, app: str) -> bytes:
    return wanted.table(ENDPOINTS)[f"outbound/shop/{app}/80"].frame


def test_a_node_calls_its_own_workloads_within_itself_and_everybody_else_by_mutual_tls() -> None:
    compilation = compiled(SHOP, workload("stock", machine=2))
    here, there = node(compilation, "web-1", "orders-1"), node(compilation, "stock-1")
    assert b"local/shop/orders-1/" in endpoint(here, "orders")
    assert b"local/" not in endpoint(here, "stock")
    assert b"local/" not in endpoint(there, "orders")
    assert b"local/shop/stock-1/" in endpoint(there, "stock")
    shared = compilation.endpoints(PortRef("shop", "stock", 80), "")
    assert shared.localities


def test_endpoints_of_services_that_are_elsewhere_are_the_blobs_of_all_other_proxies() -> None:
    compilation = compiled(SHOP, workload("stock", machine=2))
    found = compilation.mesh.workloads[Name("shop", "stock-1")]
    sidecar = stand(compilation.mesh, found, placement=Placement.SIDECAR), Seat(workload=found.name, bind="10.1.0.2")
    alone = compilation.wanted((sidecar,)).table(ENDPOINTS)
    both = node(compilation, "web-1", "orders-1").table(ENDPOINTS)
    assert both["outbound/shop/stock/80"] is alone["outbound/shop/stock/80"]
    assert both["outbound/shop/orders/80"] is not alone["outbound/shop/orders/80"]


def test_where_the_same_machine_means_tls_a_node_is_told_what_everybody_is() -> None:
    compilation = compiled(SHOP)
    local = endpoint(node(compilation, "web-1", "orders-1"), "orders")
    learn(compilation, CONFIG.format(way="tls"))
    secured = endpoint(node(compilation, "web-1", "orders-1"), "orders")
    learn(compilation, CONFIG.format(way="local"))
    assert b"local/" not in secured
    assert endpoint(node(compilation, "web-1", "orders-1"), "orders") == local


def test_a_change_of_health_reaches_the_nodes_own_endpoints() -> None:
    compilation = compiled(SHOP, workload("orders", 2, machine=2))
    before = node(compilation, "web-1", "orders-1")
    mesh = compilation.mesh
    gone = MappingProxyType({name: each for name, each in mesh.workloads.items() if name.name != "orders-2"})
    compilation.settle(replace(mesh, workloads=gone), endpoints_alone=True)
    after = node(compilation, "web-1", "orders-1")
    assert [kind for kind in after if after.table(kind) is not before.table(kind)] == [ENDPOINTS]
    assert after.table(ENDPOINTS).changed_since(before.table(ENDPOINTS)) == {"outbound/shop/orders/80"}


def test_a_nodes_own_endpoints_are_forgotten_with_it() -> None:
    compilation = compiled(SHOP)
    places = tuple(place(compilation.mesh, name) for name in ("web-1", "orders-1"))
    compilation.wanted(places)
    compilation.wanted(places[:1])
    kept = compilation.wanted(places[:1]).table(ENDPOINTS)["outbound/shop/web/80"]
    compilation.keep_only([places[:1]])
    assert compilation.wanted(places[:1]).table(ENDPOINTS)["outbound/shop/web/80"] is kept
    assert set(made(compilation._beside)) == {"web"}


def made(beside: Beside) -> Iterable[str]:
    known: Mapping = beside._made
    return (key[0].service for key, _ in known)


# -- the whole scope ----------------------------------------------------------------------------------------------


def test_a_node_is_offered_every_cluster_however_many_there_are() -> None:
    compilation = compiled(CONFIG.format(way="local"), SHOP)
    wanted = node(compilation, "web-1", "orders-1")
    assert wanted.table(CLUSTER).offered is None
    assert {f"outbound/shop/{app}/80" for app in ("web", "orders", "stock")} <= wanted.table(CLUSTER).keys()
    assert compilation.given(place(compilation.mesh, "web-1")) is None


def test_each_workload_of_a_node_has_listeners_of_its_own_name() -> None:
    wanted = node(compiled(SHOP), "web-1", "orders-1")
    assert {name.split("/")[2] for name in wanted.table(LISTENER) if name.startswith("inbound/shop/")} == {
        "web-1",
        "orders-1",
    }


# -- joining ------------------------------------------------------------------------------------------------------


def test_of_one_name_the_last_table_counts_and_equal_tables_are_joined_once() -> None:
    wanted = node(compiled(SHOP), "web-1")
    first = wanted.table(CLUSTER)
    changed = Table([replace(next(iter(first.values())), version="other")])
    union = Union().joining([Wanted({CLUSTER: first}), Wanted({CLUSTER: first}), Wanted({CLUSTER: changed})])
    assert len(union.sources[CLUSTER]) == 2
    assert union.wanted.table(CLUSTER)[next(iter(first))].version == "other"
    assert union.joining([Wanted({CLUSTER: first}), Wanted({CLUSTER: changed})]).wanted is union.wanted
    assert union.joining([]).wanted.keys() == set()
