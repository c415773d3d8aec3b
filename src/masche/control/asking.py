"""``masche why``: finds the caller and its surroundings in the Mesh and lets ``compiler.why`` decide.

A caller that does not run, as jobs mostly do not, is asked about as ``masche run`` would start it; the answer says so.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import ValidationError

from masche.api import explaining
from masche.api.explaining import WhyRequest
from masche.api.plane import Fault, PlaneError
from masche.compiler.nearness import is_local, is_near
from masche.compiler.targets import lack_of
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.compiler.why import Call, Callee, Explanation, Step, Surroundings, WayTo, why
from masche.control.flows import Flows, name_of
from masche.control.reading import service_of
from masche.control.world import World
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.resources.workload import Workload, WorkloadState
from masche.model.vantage import Placement

DEFAULT_NAMESPACE = "default"


def explain(world: World, flows: Flows, request: WhyRequest) -> explaining.Explanation:
    """Explain one call. ``flows`` knows how instances stand. Raises PlaneError NOT_FOUND without such a caller."""
    mesh = world.mesh
    caller = _caller(mesh, request.source)
    vantage = stand(mesh, caller, placement=caller.spec.placement or Placement.SIDECAR)
    call = _call(request)
    found = why(
        view(mesh, vantage),
        call,
        Surroundings(
            endpoints_of=lambda port: world.compilation.endpoints(port, caller.spec.zone),
            callee_of=lambda name: _callee(mesh, name),
            standing_of=lambda port, name: flows.reason(port, name, zone=caller.spec.zone),
            shares_of=lambda port: _shares(flows, port, caller.spec.zone),
            lack_of=lambda port: _lack(mesh, port),
            way_to=lambda name: _way(mesh, caller.name, name),
            address=caller.spec.address,
        ),
    )
    running = caller.name in mesh.workloads
    return _told(found, str(caller.name) if running else f"{caller.name} (does not run now)", request)


def _way(mesh: Mesh, caller: Name, callee: str) -> WayTo:
    if not is_near(mesh, caller, name_of(callee)):
        return WayTo.FAR
    return WayTo.WITHIN if is_local(mesh) else WayTo.NEAR


def _lack(mesh: Mesh, port: PortRef) -> str:
    found = lack_of(mesh, port)
    return f"{found.why} ({found.fix})" if found else ""


def _shares(flows: Flows, port: PortRef, zone: str) -> tuple[str, ...]:
    """How the calls are divided between zones, when there are several."""
    shares = tuple(flows.shares(port, zone))
    if len(shares) < 2:
        return ()
    return tuple(
        f"{100 * each.share:.3g} % of the calls go to {f'zone {each.zone}' if each.zone else 'no zone'}"
        + (f" by a detour through zone {each.via}" if each.via else "")
        for each in shares
    )


def _caller(mesh: Mesh, source: str) -> Workload:
    """The workload of this name, the first ready one of the service or app of this name, or one that is not there."""
    namespace, name = _named(source)
    if (exact := mesh.workloads.get(Name(namespace, name))) is not None:
        return exact
    of_service = [
        workload
        for key, workload in mesh.workloads.items()
        if key.namespace == namespace
        and (service_of(mesh, key) == f"{namespace}/{name}" or workload.metadata.labels.get("app") == name)
    ]
    if not of_service:
        return _absent(mesh, namespace, name)
    return min(of_service, key=lambda each: (each.state is not WorkloadState.READY, each.name))


def _absent(mesh: Mesh, namespace: str, name: str) -> Workload:
    """What ``masche run --service NAME`` without more would be. Raises PlaneError NOT_FOUND for no possible name."""
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    spec = {"address": "127.0.0.1", "ports": (), "serviceAccount": name}
    try:
        return Workload.model_validate({"metadata": metadata, "spec": spec})
    except ValidationError as error:
        known = sorted({service_of(mesh, key) or str(key) for key in mesh.workloads})
        fix = f"callers now are {', '.join(known)}" if known else "start one with `masche run`"
        raise PlaneError(Fault.NOT_FOUND, f"{namespace}/{name} can be no workload", fix=fix) from error


def _named(source: str) -> Name:
    if "/" in source:
        namespace, _, name = source.partition("/")
        return Name(namespace, name)
    name, _, namespace = source.partition(".")
    return Name(namespace.partition(".")[0] or DEFAULT_NAMESPACE, name)


def _call(request: WhyRequest) -> Call:
    """The call; a destination may be a host, a host with a port, ``namespace/service`` or a whole URL."""
    text, path = request.destination, request.path
    if "://" in text:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or 0
        path = path if path != "/" else (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    else:
        host, _, number = text.partition(":")
        port = int(number) if number.isdecimal() else 0
        namespace, slash, name = host.partition("/")
        host = f"{name}.{namespace}" if slash else host
    return Call(
        host=host,
        port=request.port or port,
        method=request.method.upper(),
        path=path,
        headers=tuple(request.headers.items()),
    )


def _callee(mesh: Mesh, text: str) -> Callee | None:
    namespace, _, name = text.rpartition("/")
    workload = mesh.workloads.get(Name(namespace, name))
    if workload is None:
        return None
    vantage = stand(mesh, workload, placement=workload.spec.placement or Placement.SIDECAR)
    ports = {port.mesh_port or port.port: port.port for port in workload.spec.ports}
    return Callee(view=view(mesh, vantage), app_ports=ports, address=workload.spec.address)


def _told(found: Explanation, source: str, request: WhyRequest) -> explaining.Explanation:
    return explaining.Explanation(
        verdict=explaining.Verdict(found.outcome.value),
        summary=found.summary,
        source=source,
        destination=str(found.service) if found.service else request.destination,
        steps=tuple(_steps(found.steps)),
        deciding_rule=found.rule,
        status=found.status,
    )


def _steps(steps: Iterable[Step]) -> Iterable[explaining.Step]:
    for step in steps:
        yield explaining.Step(
            stage=step.stage.value,
            is_passed=step.is_passed,
            text=step.sentence,
            rule=step.rule,
            origin=str(step.origin) if step.origin else "",
            details=step.details,
        )
