"""What each proxy must hold, made once and shared."""

from dataclasses import replace

import pytest

from control.plant import deny, resources, service
from masche.compiler.vantage import stand
from masche.control import compilation as module
from masche.control.compilation import Compilation, Place
from masche.model.mesh import Mesh
from masche.model.ports import Change, Entry
from masche.model.refs import Name, PortRef
from masche.model.steering import Steer, Steering
from masche.model.vantage import Dialect, Placement, Seat, SeatPort
from masche.model.view import Endpoints
from masche.registry.merge import merge
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES

WORKLOAD = """---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec: {{address: {address}, serviceAccount: {app}, ports: [{{name: http, port: 8080, meshPort: {port}}}]}}
"""


def workload(name: str, app: str, port: int = 21000, address: str = "127.0.0.1") -> str:
    return WORKLOAD.format(name=name, app=app, port=port, address=address)


SHOP = service("web") + service("orders") + workload("web-1", "web") + workload("web-2", "web", 21001)


def put(mesh: Mesh, text: str) -> Mesh:
    revision = mesh.revision + 1
    entries = tuple(
        Entry(ref=each.ref, resource=each, revision=revision, created_revision=1) for each in resources(text)
    )
    return merge(mesh, Change(revision=revision, entries=entries))


def settled(text: str) -> Compilation:
    compilation = Compilation()
    compilation.settle(put(Mesh(), text), endpoints_alone=False)
    return compilation


def place(compilation: Compilation, name: str, port: int = 15001) -> Place:
    mesh = compilation.mesh
    found = mesh.workloads[Name("shop", name)]
    return stand(mesh, found, placement=Placement.SIDECAR), Seat(workload=found.name, bind="127.0.0.1", proxy_port=port)


def test_two_workloads_that_stand_alike_hold_the_same_blobs_but_for_their_seats() -> None:
    compilation = settled(SHOP)
    first = compilation.wanted((place(compilation, "web-1", 15001),))
    second = compilation.wanted((place(compilation, "web-2", 16001),))
    for kind in (CLUSTER, ENDPOINTS, ROUTES):
        shared = {blob.name: blob for blob in first.table(kind).values() if not blob.name.startswith("inbound/")}
        assert shared
        assert all(second.table(kind)[name] is blob for name, blob in shared.items()), kind
    assert first.table(LISTENER)["proxy"] is not second.table(LISTENER)["proxy"]


def test_asking_again_for_what_did_not_change_gives_the_very_same_object() -> None:
    compilation = settled(SHOP)
    here = (place(compilation, "web-1"),)
    wanted = compilation.wanted(here)
    compilation.settle(put(compilation.mesh, service("web")), endpoints_alone=False)
    assert compilation.wanted(here) is wanted


def test_a_change_of_instances_touches_the_endpoints_alone() -> None:
    compilation = settled(SHOP)
    here = (place(compilation, "web-1"),)
    before = compilation.wanted(here)
    compilation.settle(put(compilation.mesh, workload("orders-1", "orders", 22000)), endpoints_alone=True)
    after = compilation.wanted(here)
    assert after is not before
    assert [kind for kind in after if after.table(kind) is not before.table(kind)] == [ENDPOINTS]
    assert after.table(ENDPOINTS).changed_since(before.table(ENDPOINTS)) == {"outbound/shop/orders/80"}


def test_a_policy_of_one_workload_changes_nothing_for_others() -> None:
    compilation = settled(SHOP + workload("orders-1", "orders", 22000) + deny("none", "nobody"))
    web, orders = (place(compilation, "web-1"),), (place(compilation, "orders-1"),)
    before = compilation.wanted(web), compilation.wanted(orders)
    compilation.settle(put(compilation.mesh, deny("none", "orders")), endpoints_alone=False)
    mesh = compilation.mesh
    assert stand(mesh, mesh.workloads[Name("shop", "web-1")], placement=Placement.SIDECAR) == web[0][0]
    assert compilation.wanted(web) is before[0]
    assert compilation.wanted(orders) is not before[1]


def test_what_cannot_be_steered_is_given_as_nobody_steers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mistake in steering takes neither endpoints from anybody nor a later Mesh from all."""
    real = module.endpoints

    def endpoints(mesh: Mesh, steering: Steering, port: PortRef, zone: str) -> Endpoints:
        return real(mesh, steering, port, zone) if not steering.steers else 1 / 0  # type: ignore[return-value]  # the mistake

    compilation = settled(SHOP + workload("orders-1", "orders"))
    web = place(compilation, "web-1")
    orders = PortRef("shop", "orders", 80)
    before = compilation.wanted((web,)).table(ENDPOINTS)[orders.path]
    monkeypatch.setattr(module, "endpoints", endpoints)
    compilation.steer(Steering(steers={(orders, ""): Steer(weights=(("shop/orders-1", 10),))}))
    assert compilation.wanted((web,)).table(ENDPOINTS)[orders.path] is before
    compilation.settle(put(compilation.mesh, workload("orders-2", "orders", 21002)), endpoints_alone=True)
    assert len(compilation.endpoints(orders, "").localities[0].endpoints) == 2
    assert compilation.unsteered == {(orders, ""): "ZeroDivisionError: division by zero"}
    compilation.steer(Steering())
    assert compilation.unsteered == {}


def test_steering_touches_the_endpoints_of_the_steered_service_alone() -> None:
    compilation = settled(SHOP + workload("orders-1", "orders", 22000) + workload("orders-2", "orders", 22001))
    here = (place(compilation, "web-1"),)
    before = compilation.wanted(here)
    port = PortRef("shop", "orders", 80)
    compilation.steer(Steering(steers={(port, ""): Steer(weights=(("shop/orders-1", 10),))}))
    after = compilation.wanted(here)
    assert [kind for kind in after if after.table(kind) is not before.table(kind)] == [ENDPOINTS]
    weights = {
        each.workload: each.weight
        for locality in compilation.endpoints(port, "").localities
        for each in locality.endpoints
    }
    assert weights["shop/orders-1"] < weights["shop/orders-2"]


def test_what_no_proxy_needs_any_more_is_forgotten() -> None:
    compilation = settled(SHOP + workload("orders-1", "orders", 22000))
    web, orders = (place(compilation, "web-1"),), (place(compilation, "orders-1"),)
    kept = compilation.wanted(web)
    view = compilation.view(orders[0][0])
    compilation.wanted(orders)
    compilation.keep_only([web])
    assert compilation.wanted(web) is kept
    assert compilation.view(orders[0][0]) is not view, "it was made anew"


def test_a_proxy_with_several_workloads_holds_the_union() -> None:
    compilation = settled(SHOP + workload("orders-1", "orders", 22000))
    web, orders = place(compilation, "web-1"), place(compilation, "orders-1")
    both = compilation.wanted((web, orders))
    for alone in (compilation.wanted((web,)), compilation.wanted((orders,))):
        assert all(set(alone.table(kind)) <= set(both.table(kind)) for kind in alone)


def test_a_mesh_that_cannot_be_compiled_leaves_everything_as_it_was() -> None:
    compilation = settled(SHOP)
    here = (place(compilation, "web-1"),)
    mesh, wanted = compilation.mesh, compilation.wanted(here)
    broken = replace(mesh, services={Name("shop", "web"): "not a Service"})
    with pytest.raises(AttributeError):
        compilation.settle(broken, endpoints_alone=False)
    assert compilation.mesh is mesh
    assert compilation.wanted(here) is wanted


def test_the_library_is_given_the_table_and_the_endpoints_that_sidecars_are_given() -> None:
    compilation = settled(SHOP)
    found = compilation.mesh.workloads[Name("shop", "web-1")]
    seat = Seat(workload=found.name, bind="127.0.0.1", ports=(SeatPort(name="http", app_port=8080, mesh_port=8080),))
    vantage = stand(compilation.mesh, found, placement=Placement.LIBRARY, dialect=Dialect.LIBRARY)
    library, sidecar = compilation.wanted(((vantage, seat),)), compilation.wanted((place(compilation, "web-1"),))
    assert sorted(library.table(LISTENER)) == ["inbound/8080", "proxy"]
    assert list(library.table(ROUTES)) == ["proxy"]
    assert library.table(ROUTES)["proxy"].version == sidecar.table(ROUTES)["proxy"].version
    for name, blob in library.table(ENDPOINTS).items():
        assert blob is sidecar.table(ENDPOINTS)[name]
    assert sorted(library.table(CLUSTER)) == sorted(library.table(ENDPOINTS))


def test_what_the_library_may_call_is_never_narrowed_since_it_asks_by_name() -> None:
    many = "".join(service(f"s{number}") for number in range(60))
    compilation = settled(SHOP + many)
    found = compilation.mesh.workloads[Name("shop", "web-1")]
    vantage = stand(compilation.mesh, found, placement=Placement.LIBRARY, dialect=Dialect.LIBRARY)
    seat = Seat(workload=found.name, bind="127.0.0.1")
    assert compilation.given((vantage, seat)) is None
    offered = compilation.wanted(((vantage, seat),)).table(CLUSTER)
    assert len(offered) == 62
    assert all(offered.offers(name) for name in offered)


def test_a_program_that_uses_grpc_is_told_in_its_own_dialect_and_shares_what_is_the_same_in_both() -> None:
    compilation = settled(SHOP + workload("orders-1", "orders"))
    beside, seat = place(compilation, "web-1")
    program = replace(beside, placement=Placement.LIBRARY, dialect=Dialect.GRPC)
    own = replace(seat, proxy_port=0, ports=(SeatPort(name="grpc", app_port=50051, mesh_port=50051),))
    proxied, told = compilation.wanted(((beside, seat),)), compilation.wanted(((program, own),))
    assert {"orders", "orders:80", "orders.shop.svc.cluster.local:80"} <= told.table(LISTENER).keys()
    assert "grpc/server?xds.resource.listening_address=0.0.0.0:50051" in told.table(LISTENER)
    assert "proxy" not in told.table(LISTENER)
    name = PortRef("shop", "orders", 80).path
    assert told.table(CLUSTER)[name].version != proxied.table(CLUSTER)[name].version
    assert told.table(ENDPOINTS)[name] is proxied.table(ENDPOINTS)[name]
    weights = (("shop/orders-1", 10), ("shop/orders-2", 100))
    compilation.settle(put(compilation.mesh, workload("orders-2", "orders", 21002)), endpoints_alone=True)
    compilation.steer(Steering(steers={(PortRef("shop", "orders", 80), ""): Steer(weights=weights)}))
    steered = compilation.wanted(((program, own),)).table(ENDPOINTS)[name]
    assert steered.version != compilation.wanted(((beside, seat),)).table(ENDPOINTS)[name].version
    compilation.settle(put(compilation.mesh, service("extra")), endpoints_alone=False)
    assert compilation.wanted(((program, own),)).table(ENDPOINTS)[name] is steered
