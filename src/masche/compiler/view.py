"""What a workload that stands at one Vantage must be given, made from the Mesh and the Vantage and nothing else.

Invariant: equal tables and equal Vantages give equal Views, and no address of any endpoint is looked at.
"""

from itertools import chain

from masche.compiler import scope
from masche.compiler.clusters import clusters, of_backends, of_routes
from masche.compiler.gateways import gateway
from masche.compiler.inbound import inbound
from masche.compiler.names import spiffe_id
from masche.compiler.outbound import outbound
from masche.compiler.status import statuses
from masche.model.mesh import Mesh
from masche.model.resources.mesh_config import OutboundTrafficPolicy
from masche.model.vantage import Placement, Vantage
from masche.model.view import View

__all__ = ["statuses", "view"]


def view(mesh: Mesh, vantage: Vantage) -> View:
    """Return the whole View. A gateway is given what its listeners lead to and calls nobody else."""
    listeners = gateway(mesh, vantage.gateway) if vantage.gateway else ()
    called = () if vantage.placement is Placement.GATEWAY else scope.services(mesh, vantage)
    ways = tuple(chain.from_iterable(outbound(mesh, each, caller=vantage.namespace) for each in called))
    tables = chain(
        (way.routes for way in ways),
        (host.routes for listener in listeners for host in listener.virtual_hosts),
    )
    destinations = chain(of_routes(chain.from_iterable(tables)), *(of_backends(way.backends) for way in ways))
    config = mesh.config.spec
    return View(
        vantage=vantage,
        trust_domain=config.trust_domain,
        identity=spiffe_id(config.trust_domain, vantage.namespace, vantage.service_account),
        outbound=ways,
        clusters=clusters(mesh, destinations),
        inbound=inbound(mesh, vantage),
        gateway=listeners,
        is_registry_only=config.outbound_traffic_policy is OutboundTrafficPolicy.REGISTRY_ONLY,
    )
