"""Who is near whom: served by one proxy, and only by a node's."""

from dataclasses import replace

from masche.compiler.nearness import is_local, is_near, node_of
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.mesh_config import MeshConfig, SameMachine
from masche.model.resources.workload import Workload


def workload(name: str, proxy: str = "", placement: str = "node") -> Workload:
    manifest: dict[str, object] = {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"address": "10.0.0.1", "placement": placement},
    }
    return Workload.model_validate(manifest | ({"status": {"proxy": proxy, "machine": "m"}} if proxy else {}))


MESH = Mesh(
    workloads={
        each.name: each
        for each in (
            workload("web", "node~m1"),
            workload("orders", "node~m1"),
            workload("stock", "node~m2"),
            workload("cart", "sidecar~cart", "sidecar"),
            workload("other", "sidecar~cart", "sidecar"),
            workload("byhand"),
        )
    }
)


def near(caller: str, callee: str) -> bool:
    return is_near(MESH, Name("shop", caller), Name("shop", callee))


def test_only_workloads_of_one_node_are_near_each_other() -> None:
    names = [name.name for name in MESH.workloads]
    pairs = {(one, other) for one in names for other in names if near(one, other)}
    assert pairs == {("web", "web"), ("web", "orders"), ("orders", "web"), ("orders", "orders"), ("stock", "stock")}


def test_nobody_is_near_who_is_not_there() -> None:
    assert not near("web", "nobody")
    assert not near("nobody", "nobody")
    assert node_of(None) == ""


def test_the_mesh_says_whether_what_is_near_is_called_within_the_proxy() -> None:
    config = MeshConfig.default()
    tls = config.model_copy(update={"spec": config.spec.model_copy(update={"same_machine": SameMachine.TLS})})
    assert is_local(MESH)
    assert not is_local(replace(MESH, config=tls))
