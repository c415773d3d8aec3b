"""A port of a Service that no Workload which it selects has."""

import pytest
from meshes import a_mesh, service, workload

from masche.compiler.status import statuses
from masche.compiler.targets import lack_of
from masche.model.mesh import Mesh
from masche.model.refs import PortRef

ON_9090 = ", ports: [{name: http, port: 9090, meshPort: 21000}]"


def remarks(mesh: Mesh) -> list[tuple[str, str]]:
    return [(each.where, each.why) for status in statuses(mesh) for each in status.diagnostics]


def test_a_target_port_that_nobody_has_is_named_with_the_ports_that_there_are():
    mesh = a_mesh(service("orders") + workload("orders-1", "orders", ON_9090))
    (found,) = [each for status in statuses(mesh) for each in status.diagnostics]
    assert (found.code, found.where) == ("target-port-missing", "Service/shop/orders spec.ports[0].targetPort")
    assert found.why == (
        "port 80 leads to port 8080, and shop/orders-1, the only workload that it selects, has 9090 (http) instead"
    )
    assert found.fix == "write targetPort: 9090, or let the workloads listen on 8080"


def test_a_named_target_port_is_looked_for_by_its_name():
    ports = "[{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: metrics}]"
    some = workload("orders-1", "orders", ON_9090) + workload("orders-2", "orders", ON_9090)
    assert remarks(a_mesh(service("orders", ports) + some)) == [
        (
            "Service/shop/orders spec.ports[1].targetPort",
            "port 81 leads to a port named 'metrics', and the 2 workloads that it selects have 9090 (http) instead",
        )
    ]


@pytest.mark.parametrize(
    "workloads",
    [
        "",
        workload("orders-1", "orders"),
        workload("orders-1", "orders", state="STARTING"),
        workload("orders-1", "orders") + workload("orders-2", "orders", ON_9090),
        workload("web-1", "web", ON_9090),
    ],
    ids=["nobody", "it", "one that starts", "one of two", "another Service"],
)
def test_nothing_is_said_where_a_workload_has_the_port_or_nobody_listens(workloads: str):
    assert not remarks(a_mesh(service("orders") + workloads))


def test_a_port_is_asked_about_alone():
    mesh = a_mesh(
        service("orders", "[{name: a, port: 80, targetPort: 9090}, {name: b, port: 81}]")
        + workload("orders-1", "orders", ON_9090)
    )
    assert lack_of(mesh, PortRef("shop", "orders", 80)) is None
    assert (found := lack_of(mesh, PortRef("shop", "orders", 81)))
    assert "port 81 leads to port 81" in found.why
    assert lack_of(mesh, PortRef("shop", "ghost", 80)) is None
