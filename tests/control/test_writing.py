"""What people write: one revision or none, judged before it is stored."""

from pathlib import Path

import pytest

from control.plant import Plant, deny, plant, service, sidecar
from masche.api.messages import Document, Verb
from masche.api.plane import Fault, PlaneError
from masche.model.ports import StoreError
from masche.model.refs import Kind, Ref
from masche.registry.memory import MemoryStore

WEB = Ref(Kind.SERVICE, "shop", "web")
CONFIG = """---
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: other.example}
"""
STATUS = """---
apiVersion: masche.dev/v1
kind: Workload
metadata: {name: web, namespace: shop}
spec: {address: 127.0.0.1, ports: [{port: 80}]}
"""


async def refused(mesh: Plant, *texts: str) -> PlaneError:
    with pytest.raises(PlaneError) as caught:
        await mesh.apply(*texts)
    return caught.value


async def test_documents_of_which_one_is_wrong_store_nothing_and_name_every_mistake(mesh: Plant) -> None:
    error = await refused(mesh, service("web"), "kind: Nonsense\n", service("Bad_Name"))
    assert error.fault is Fault.INVALID
    assert {found.place.file for found in error.diagnostics if found.place} == {"1.yaml", "2.yaml"}
    assert (await mesh.store.snapshot()).entries == ()


async def test_a_resource_written_twice_in_one_apply_is_a_mistake(mesh: Plant) -> None:
    error = await refused(mesh, service("web"), service("web", 81))
    assert [found.code for found in error.diagnostics] == ["named-twice"]


async def test_the_trust_domain_cannot_be_changed(mesh: Plant) -> None:
    error = await refused(mesh, CONFIG)
    assert [found.code for found in error.diagnostics] == ["trust-domain-fixed"]


async def test_a_status_is_written_by_the_mesh_alone(mesh: Plant) -> None:
    error = await refused(mesh, STATUS + "status: {state: READY}\n")
    assert [found.code for found in error.diagnostics] == ["workload-registered"]


async def test_a_registered_workload_is_not_written_over(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        error = await refused(mesh, STATUS)
    assert "is registered by machine m1" in error.diagnostics[0].why


async def test_each_resource_is_named_with_what_became_of_it(mesh: Plant) -> None:
    await mesh.apply(service("web"), service("orders"))
    applied = await mesh.apply(service("web"), service("orders", 81), service("stock"))
    assert [each.verb for each in applied.changed] == [Verb.UNCHANGED, Verb.CONFIGURED, Verb.CREATED]
    assert mesh.happened("applied")[-1] == f"revision {applied.revision}: Service/shop/orders, Service/shop/stock"


async def test_applying_what_is_stored_makes_no_revision_and_no_event(mesh: Plant) -> None:
    first = await mesh.apply(service("web"))
    again = await mesh.apply(service("web"))
    assert again.revision == first.revision
    assert len(mesh.happened("applied")) == 1


async def test_a_dry_run_names_whom_a_change_would_reach_and_stores_nothing(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"), sidecar("orders", port=22000))
        before = mesh.store.revision
        applied = await mesh.apply(deny("no", "orders"), dry_run=True)
        assert mesh.store.revision == before
    assert applied.is_dry_run
    assert [(each.workload, each.proxy) for each in applied.impact] == [("shop/orders", "orders-proxy")]
    assert any("no" in sentence for sentence in applied.impact[0].sentences)


async def test_deleting_what_is_missing_deletes_nothing(mesh: Plant) -> None:
    await mesh.apply(service("web"))
    with pytest.raises(PlaneError) as caught:
        await mesh.plane.delete([WEB, Ref(Kind.SERVICE, "shop", "gone")], (), dry_run=False)
    assert caught.value.fault is Fault.NOT_FOUND
    assert "Service/shop/gone" in caught.value.message
    assert len((await mesh.store.snapshot()).entries) == 1


async def test_deleting_by_document_and_by_name_is_one_revision(mesh: Plant) -> None:
    applied = await mesh.apply(service("web"), service("orders"))
    documents = [Document(file="0.yaml", text=service("orders"))]
    deleted = await mesh.plane.delete([WEB], documents, dry_run=False)
    assert deleted.revision == applied.revision + 1
    assert (await mesh.store.snapshot()).entries == ()


async def test_the_difference_is_shown_line_by_line(mesh: Plant) -> None:
    await mesh.apply(service("web"))
    found = await mesh.plane.diff([Document(file="0.yaml", text=service("web", 81))])
    assert [each.ref for each in found.differences] == [WEB]
    lines = found.differences[0].lines
    assert any(line.startswith("-") and "80" in line for line in lines)
    assert any(line.startswith("+") and "81" in line for line in lines)


async def test_what_cannot_be_carried_out_is_stored_with_a_warning(mesh: Plant) -> None:
    applied = await mesh.apply("""---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: nobody}]
  rules: [{backendRefs: [{name: nobody, port: 80}]}]
""")
    assert applied.diagnostics
    assert all(str(found.severity) != "error" for found in applied.diagnostics)


async def test_a_store_that_fails_is_said_to_be_unavailable(tmp_path: Path) -> None:
    store = MemoryStore()
    async with plant(tmp_path, store=store) as mesh:
        await mesh.parts.world.synced.wait()
        store.fail(StoreError("the disk is full"))
        error = await refused(mesh, service("web"))
        assert error.fault is Fault.UNAVAILABLE
        assert "disk is full" in error.message


async def test_with_a_folder_as_the_truth_nobody_writes_around_it(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    async with plant(tmp_path / "data", static=folder) as mesh:
        error = await refused(mesh, service("web"))
        assert error.fault is Fault.CONFLICT
        assert str(folder) in error.message
        assert (await mesh.apply(service("web"), dry_run=True)).is_dry_run
