"""Folding Changes into a Mesh touches what they touch and nothing else."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from masche.model.mesh import Mesh, Resource
from masche.model.ports import Change, Entry, Snapshot
from masche.model.refs import Kind, Name, Ref
from masche.model.resources.core import EndpointSlice, Service, ServiceSpec
from masche.model.resources.mesh_config import MeshConfig, MeshConfigSpec
from masche.model.resources.meta import FrozenMap, ObjectMeta
from masche.model.resources.workload import Workload, WorkloadSpec, WorkloadState, WorkloadStatus
from masche.registry.merge import (
    TABLES,
    Touched,
    endpoints_only,
    from_snapshot,
    merge,
    merge_all,
    touched,
)


def service(name: str, app: str = "") -> Service:
    spec = ServiceSpec(selector=FrozenMap({"app": app or name}))
    return Service(metadata=ObjectMeta(name=name, namespace="shop"), spec=spec)


def workload(name: str, app: str = "orders", **spec: Any) -> Workload:
    state = spec.pop("state", WorkloadState.READY)
    fields = {"address": "10.0.0.1", "service_account": app} | spec
    return Workload(
        metadata=ObjectMeta(name=name, namespace="shop", labels=FrozenMap({"app": app})),
        spec=WorkloadSpec(**fields),
        status=WorkloadStatus(state=state, machine="m1"),
    )


def entry(resource: Resource, revision: int = 1) -> Entry:
    return Entry(ref=resource.ref, resource=resource, revision=revision, created_revision=1)


def put(*resources: Resource, revision: int = 2) -> Change:
    return Change(revision=revision, entries=tuple(entry(each, revision) for each in resources))


SHOP = from_snapshot(
    Snapshot(
        revision=1,
        entries=tuple(
            map(entry, (service("orders"), service("cart"), workload("o1"), workload("o2"), workload("c1", "cart")))
        ),
    )
)


def test_every_kind_has_its_table():
    assert set(TABLES) == set(Kind) - {Kind.MESH_CONFIG}
    assert {*TABLES.values(), "config", "revision"} == set(Mesh.__dataclass_fields__)


def test_a_snapshot_becomes_a_mesh():
    assert SHOP.revision == 1
    assert set(SHOP.services) == {Name("shop", "orders"), Name("shop", "cart")}
    assert from_snapshot(Snapshot(revision=7, entries=())) == Mesh(revision=7)


def test_only_the_touched_table_is_a_new_object():
    after = merge(SHOP, put(workload("o3")))
    assert after.revision == 2
    assert after.workloads.keys() == SHOP.workloads.keys() | {Name("shop", "o3")}
    assert all(getattr(after, table) is getattr(SHOP, table) for table in TABLES.values() if table != "workloads")
    assert after.workloads[Name("shop", "o1")] is SHOP.workloads[Name("shop", "o1")]


def test_when_nothing_differs_the_mesh_is_the_same_object():
    assert merge(SHOP, put(workload("o1"), service("cart"))) is SHOP
    assert merge(SHOP, Change(revision=9, deleted=(Ref(Kind.WORKLOAD, "shop", "nobody"),))) is SHOP


def test_changes_are_folded_in_order_and_each_table_is_copied_once():
    gone = Change(revision=3, deleted=(workload("o3").ref,))
    assert merge_all(SHOP, (put(workload("o3")), gone)) is SHOP
    assert merge_all(SHOP, (gone, put(workload("o3"), revision=4))).revision == 4


def test_the_mesh_config_named_default_is_the_configuration():
    strange = MeshConfig(metadata=ObjectMeta(name="other"), spec=MeshConfigSpec(trust_domain="other.example"))
    ours = MeshConfig(metadata=ObjectMeta(name="default"), spec=MeshConfigSpec(trust_domain="shop.example"))
    assert merge(SHOP, put(strange)) is SHOP
    configured = merge(SHOP, put(ours))
    assert configured.config is ours
    assert touched(SHOP, configured) == Touched(kinds=frozenset({Kind.MESH_CONFIG}))
    assert merge(configured, Change(revision=3, deleted=(ours.ref,))).config == MeshConfig.default()


def test_touched_names_kinds_and_workloads():
    change = replace(
        put(workload("o1", zone="b"), workload("o3"), service("new")), deleted=(workload("c1", "cart").ref,)
    )
    assert touched(SHOP, merge(SHOP, change)) == Touched(
        kinds=frozenset({Kind.WORKLOAD, Kind.SERVICE}),
        workloads=frozenset({Name("shop", "o1"), Name("shop", "o3"), Name("shop", "c1")}),
    )
    assert not touched(SHOP, SHOP)


def test_a_replica_that_comes_goes_moves_or_falls_ill_changes_endpoints_only():
    for change in (
        put(workload("o3")),
        put(workload("o1", address="10.0.0.9", zone="b")),
        put(workload("o1", state=WorkloadState.UNHEALTHY)),
        Change(revision=2, deleted=(workload("o2").ref,)),
        replace(put(workload("o3")), deleted=(workload("o1").ref,)),
    ):
        assert endpoints_only(SHOP, merge(SHOP, change)), change


def test_the_first_and_the_last_of_a_kind_change_more_than_endpoints():
    for change in (
        put(workload("p1", "payment")),
        put(workload("o1", service_account="intruder")),
        put(workload("o1", dependencies=("cart",))),
        put(workload("o1", tls="DISABLE")),
        Change(revision=2, deleted=(workload("c1", "cart").ref,)),
        put(workload("o3"), service("new")),
    ):
        assert not endpoints_only(SHOP, merge(SHOP, change)), change


def test_an_endpoint_slice_changes_endpoints_only_while_its_outline_stays():
    def piece(*endpoints: dict[str, Any], port: int = 80) -> EndpointSlice:
        return EndpointSlice.model_validate(
            {
                "metadata": {
                    "name": "s",
                    "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": "cart"},
                },
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"port": port}],
            }
        )

    first = merge(SHOP, put(piece({"addresses": ["10.0.0.1"]})))
    assert not endpoints_only(SHOP, first)
    second = merge(first, put(piece({"addresses": ["10.0.0.2"]}), revision=3))
    assert endpoints_only(first, second)
    assert not endpoints_only(second, merge(second, put(piece({"addresses": ["10.0.0.2"]}, port=81), revision=4)))


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["orders", "cart", "gone"]), st.integers(1, 3)), max_size=30
    )
)
def test_folding_one_by_one_folding_together_and_reading_anew_agree(steps: list[tuple[str, str, int]]):
    changes: list[Change] = []
    world: dict[Ref, Entry] = {}
    for number, (name, app, address) in enumerate(steps, start=2):
        resource = workload(name, app, address=f"10.0.0.{address}")
        if app == "gone":
            changes.append(Change(revision=number, deleted=(resource.ref,)))
            world.pop(resource.ref, None)
        else:
            changes.append(put(resource, revision=number))
            world[resource.ref] = entry(resource)
    one_by_one = Mesh()
    for change in changes:
        following = merge(one_by_one, change)
        same = not touched(one_by_one, following)
        assert same == (following is one_by_one)
        one_by_one = following
    together = merge_all(Mesh(), changes)
    anew = from_snapshot(Snapshot(revision=0, entries=tuple(world.values())))
    assert dict(one_by_one.workloads) == dict(together.workloads) == dict(anew.workloads)
