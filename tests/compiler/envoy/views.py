"""Views built by hand for the tests of the encoder."""

from dataclasses import replace

from masche.compiler.envoy import endpoints
from masche.model.blob import Blob
from masche.model.refs import Name, PortRef
from masche.model.vantage import Dialect, Placement, Seat, Vantage
from masche.model.view import (
    Backend,
    Cluster,
    Endpoints,
    EndpointView,
    Forward,
    Inbound,
    InboundPort,
    Locality,
    Outbound,
    Protocol,
    RequestMatch,
    Route,
    View,
)

TRUST_DOMAIN = "mesh.local"


def identity(name: str, namespace: str = "shop") -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{name}"


def port(service: str, number: int = 80) -> PortRef:
    return PortRef("shop", service, number)


def route(name: str, *backends: PortRef | None, **more) -> Route:
    """A Route that forwards; fields of Forward, Route and RequestMatch may be given by name."""
    fields = {"match": RequestMatch(), "action": Forward(backends=tuple(Backend(cluster=each) for each in backends))}
    return replace(Route(name=name, **fields), **more)


def outbound(service: PortRef, *routes: Route, protocol: Protocol = Protocol.HTTP, **more) -> Outbound:
    return Outbound(
        service=service,
        protocol=protocol,
        hosts=(service.service, f"{service.service}.{service.namespace}"),
        answers_bare=True,
        routes=routes or (route("default", service),),
        backends=(Backend(cluster=service),),
        **more,
    )


def cluster(service: PortRef, protocol: Protocol = Protocol.HTTP, **more) -> Cluster:
    return Cluster(service=service, protocol=protocol, **{"identities": (identity(service.service),), **more})


def view(name: str = "web", **more) -> View:
    vantage = Vantage(
        placement=more.pop("placement", Placement.SIDECAR),
        dialect=Dialect.ENVOY,
        namespace="shop",
        service_account=name,
    )
    return View(vantage=vantage, trust_domain=TRUST_DOMAIN, identity=identity(name), **more)


def callee(name: str, app_port: int, protocol: Protocol = Protocol.HTTP, **more) -> View:
    return view(name, inbound=Inbound(ports=(InboundPort(target=app_port, protocol=protocol),), **more))


def seat(name: str, **more) -> Seat:
    return Seat(workload=Name("shop", f"{name}-1"), bind="127.0.0.1", **more)


def at(service: PortRef, *ports: int, **more) -> Blob:
    """The endpoints of a service: instances on this host at ``ports``."""
    instances = tuple(EndpointView(address="127.0.0.1", port=each, workload=f"w{each}", **more) for each in ports)
    return endpoints.blob(Endpoints(service=service, localities=(Locality(zone="a", priority=0, endpoints=instances),)))
