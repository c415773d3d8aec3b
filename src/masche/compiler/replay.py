"""Ask the Mesh about one call without a proxy: the Views of both ends, the endpoints between them, and ``why``."""

from masche.compiler.endpoints import endpoints
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.compiler.why import Call, Callee, Explanation, Surroundings, enter, why
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.resources.workload import Workload
from masche.model.steering import NO_STEERING, Steering
from masche.model.vantage import Placement
from masche.model.view import Endpoints


def explain(
    mesh: Mesh, source: Workload, call: Call, *, steering: Steering = NO_STEERING, gateway: Name | None = None
) -> Explanation:
    """Explain a call that the workload would make, or one from outside that reaches it as a ``gateway``."""

    def endpoints_of(port: PortRef) -> Endpoints:
        return endpoints(mesh, steering, port, source.spec.zone)

    def callee_of(workload: str) -> Callee | None:
        namespace, _, name = workload.partition("/")
        found = mesh.workloads.get(Name(namespace, name))
        return _callee(mesh, found) if found else None

    around = Surroundings(endpoints_of=endpoints_of, callee_of=callee_of, address=source.spec.address)
    if gateway:
        return enter(view(mesh, stand(mesh, source, placement=Placement.GATEWAY, gateway=gateway)), call, around)
    return why(view(mesh, stand(mesh, source, placement=source.spec.placement or Placement.SIDECAR)), call, around)


def _callee(mesh: Mesh, workload: Workload) -> Callee:
    placement = workload.spec.placement or Placement.SIDECAR
    return Callee(
        view=view(mesh, stand(mesh, workload, placement=placement)),
        app_ports={port.mesh_port or port.port: port.port for port in workload.spec.ports},
        address=workload.spec.address,
    )
