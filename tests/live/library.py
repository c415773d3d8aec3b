"""The library in this process as one of a mesh's workloads: told what the compiler makes of the mesh, byte for byte."""

from collections.abc import Callable
from dataclasses import dataclass, field

from live.mesh import Live
from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.proxyless import library
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.library.core.facade import CallOptions, Facade
from masche.library.core.ports import Called, Recorder, Tried
from masche.library.core.tls import Certificates
from masche.model.refs import Name
from masche.model.vantage import Dialect, Placement
from masche.model.view import Endpoints, View
from masche.testing.static_knowledge import StaticKnowledge, World
from masche.wire import framing, types
from masche.wire.decode import clusters, routes
from masche.wire.decode import endpoints as decoded_endpoints

Moved = Callable[[Endpoints], Endpoints]


@dataclass
class Kept:
    """A Recorder that keeps everything."""

    tries: list[Tried] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)

    def tried(self, tried: Tried) -> None:
        self.tries.append(tried)

    def called(self, called: Called) -> None:
        self.calls.append(called)


def facade(live: Live, caller: Name, recorder: Recorder | None = None, moved: Moved = lambda found: found) -> Facade:
    """The mesh as ``caller`` has it, of this moment; endpoints are ``moved``."""
    told = told_to(live, caller)
    certificates = Certificates()
    certificates.put(*live.issue(told.identity))
    zone = live.mesh.workloads[caller].spec.zone
    return Facade(
        knowledge=StaticKnowledge(world(live, told, zone, moved)),
        identity=certificates,
        recorder=recorder or Kept(),
        options=CallOptions(caller=str(caller)),
    )


def told_to(live: Live, caller: Name) -> View:
    """What the library is told there."""
    return view(
        live.mesh,
        stand(live.mesh, live.mesh.workloads[caller], placement=Placement.LIBRARY, dialect=Dialect.LIBRARY),
    )


def world(live: Live, told: View, zone: str, moved: Moved = lambda found: found) -> World:
    """What a client makes of the bytes that our control plane sends."""
    blobs = library.blobs(told)
    (table,) = (routes.table(blob.name, framing.message_of(blob)) for blob in blobs if blob.type_url == types.ROUTES)
    return World(
        table=table,
        destinations=tuple(
            clusters.destination(blob.name, framing.message_of(blob))
            for blob in blobs
            if blob.type_url == types.CLUSTER
        ),
        endpoints={
            each.service.path: _read_back(moved(live.instances_of(each.service, zone))) for each in told.clusters
        },
    )


def _read_back(found: Endpoints) -> Endpoints:
    blob = encoded_endpoints.blob(found)
    return decoded_endpoints.endpoints(blob.name, framing.message_of(blob))
