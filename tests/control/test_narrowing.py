"""What a workload of a large mesh is given unasked, and what of that is shared."""

from dataclasses import replace

from control.plant import service
from control.test_compilation import place, put, settled, workload
from masche.control.compilation import Compilation, Place
from masche.model.refs import Name, PortRef
from masche.model.vantage import LocalPort
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.wanted import Table

CONFIG = """---
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {{name: default}}
spec: {{onDemandAbove: {above}}}
"""

MIRROR = """---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}]
    backendRefs: [{name: orders, port: 80}, {name: newer, port: 80}]
"""

LACKING = """---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules: [{backendRefs: [{name: orders, port: 80}, {name: nobody, port: 80}]}]
"""

NAMES = ("web", "orders", "copy", "newer", "stock")
LARGE = "".join(map(service, NAMES)) + workload("web-1", "web") + workload("web-2", "web", 21001)
WEB = Name("shop", "web")


def large(more: str = "", *, above: int = 2) -> Compilation:
    return settled(CONFIG.format(above=above) + LARGE + more)


def called(*services: str) -> dict[Name, frozenset[Name]]:
    return {WEB: frozenset(Name("shop", each) for each in services)}


def offered(compilation: Compilation, *places: Place) -> set[str]:
    """The Services of which a proxy gets a cluster without asking."""
    table = compilation.wanted(places).table(CLUSTER)
    return {name.split("/")[2] for name in table if name.startswith("outbound/") and table.offers(name)}


def test_a_small_scope_is_given_whole():
    compilation = large(above=len(NAMES))
    assert compilation.wanted((place(compilation, "web-1"),)).table(CLUSTER).offered is None


def test_of_a_large_scope_nothing_is_given_unasked_but_what_was_called_and_what_has_a_local_port():
    compilation = large()
    web = place(compilation, "web-1")
    assert offered(compilation, web) == set()
    compilation.recall(called("orders"))
    assert offered(compilation, web) == {"orders"}
    seat = replace(web[1], local_ports=(LocalPort(service=PortRef("shop", "stock", 80), port=20_000),))
    assert offered(compilation, (web[0], seat)) == {"orders", "stock"}


def test_everything_is_there_for_whoever_asks_and_a_proxy_s_own_clusters_are_given():
    compilation = large()
    wanted = compilation.wanted((place(compilation, "web-1"),))
    clusters = wanted.table(CLUSTER)
    assert {f"outbound/shop/{name}/80" for name in NAMES} <= clusters.keys()
    assert {f"outbound/shop/{name}/80" for name in NAMES} <= wanted.table(ENDPOINTS).keys()
    assert {name for name in clusters if not name.startswith("outbound/")} == clusters.offered


def test_a_service_is_given_with_all_that_its_rules_lead_to():
    compilation = large(MIRROR)
    compilation.recall(called("orders"))
    assert offered(compilation, place(compilation, "web-1")) == {"orders", "newer", "copy"}


def test_what_is_mirrored_to_is_always_given_because_nobody_asks_for_it():
    assert offered(large(MIRROR), place(large(MIRROR), "web-1")) == {"copy"}


def test_what_shares_a_rule_with_a_backend_that_does_not_exist_is_always_given():
    compilation = large(LACKING)
    assert offered(compilation, place(compilation, "web-1")) == {"orders"}


def test_declared_dependencies_are_given_however_many():
    text = workload("web-3", "web", 21002).replace(
        "serviceAccount", "dependencies: [orders, stock, copy], serviceAccount"
    )
    compilation = large(text)
    table = compilation.wanted((place(compilation, "web-3"),)).table(CLUSTER)
    assert table.offered is None
    assert {name for name in table if name.startswith("outbound/")} == {
        f"outbound/shop/{each}/80" for each in ("orders", "stock", "copy")
    }


def test_a_proxy_of_several_workloads_is_given_what_any_of_them_is():
    compilation = large(workload("orders-1", "orders", 22000))
    compilation.recall(called("stock") | {Name("shop", "orders"): frozenset({WEB})})
    assert offered(compilation, place(compilation, "web-1"), place(compilation, "orders-1")) == {"stock", "web"}


def test_blobs_are_the_same_whatever_is_given_and_replicas_share_the_table_of_routes():
    compilation = large()
    first, second = ((place(compilation, name),) for name in ("web-1", "web-2"))
    one, other = compilation.wanted(first), compilation.wanted(second)
    assert one.table(ROUTES) is other.table(ROUTES)
    whole = large(above=100)
    everything = whole.wanted((place(whole, "web-1"),))
    for kind in (CLUSTER, ENDPOINTS, LISTENER):
        assert versions(one.table(kind)) == versions(everything.table(kind))
    assert one.table(ROUTES)["proxy"].version != everything.table(ROUTES)["proxy"].version


def test_what_did_not_change_stays_the_same_object():
    compilation = large()
    here = (place(compilation, "web-1"),)
    compilation.recall(called("orders"))
    wanted = compilation.wanted(here)
    compilation.recall(called("orders"))
    compilation.settle(put(compilation.mesh, service("web")), endpoints_alone=False)
    compilation.keep_only([here])
    assert compilation.wanted(here) is wanted
    compilation.settle(put(compilation.mesh, workload("orders-1", "orders", 22000)), endpoints_alone=True)
    after = compilation.wanted(here)
    assert [kind for kind in after if after.table(kind) is not wanted.table(kind)] == [ENDPOINTS]


def versions(table: Table) -> dict[str, str]:
    return {name: blob.version for name, blob in table.items()}
