"""What is measured at a caller's proxy arrives at the control plane: by instance, and network apart from service."""

from e2e.mesh import Mesh
from e2e.waiting import until
from masche.api.traffic import CallerView

SLOW_MS = 200


def test_the_control_plane_knows_how_much_of_a_slow_answer_is_the_instance_and_how_much_the_way(mesh: Mesh) -> None:
    orders = mesh.run("orders")
    mesh.await_ready(orders)
    web = mesh.run("web")
    mesh.await_ready(web)

    def seen() -> CallerView | None:
        assert web.reaches("orders", f"/slow/{SLOW_MS}")
        callers = (
            caller
            for edge in mesh.client.edges(window=10).edges
            for endpoint in edge.endpoints
            if endpoint.workload == orders.seat.workload
            for caller in endpoint.callers
        )
        return next((each for each in callers if each.service_ms), None)

    found = until(seen, "a service time")
    assert SLOW_MS * 0.9 <= found.service_ms <= found.latency_ms * 1.1
    assert found.network_ms < SLOW_MS / 2
