"""What an xDS client was told: route tables, clusters and listeners after decoding, in the words of a View.

The other side of a Blob: an encoder makes bytes of a View, a decoder makes these of the bytes, whoever sent them. Names
are those that the control plane gave, ours or another's. Invariant: what could not be understood is not in here; it was
refused whole, with the reason, before.
"""

from enum import StrEnum

from masche.model.frozen import frozen
from masche.model.view import Cluster, Endpoints, Fault, Inbound, VirtualHost

PASSTHROUGH = "passthrough"
"""The cluster, in our own control plane's tables, of what is not of the mesh: it goes out as it would have gone."""


TUNNELS = "proxy-connect"
"""The cluster, in our own control plane's tables, in which a proxy itself reads what a tunnel carries: HTTP."""

CLIENT_LISTENER = "proxy"
"""What our own control plane calls the one Listener of a client, whatever is called."""

SERVER_LISTENER = "inbound/%s"
"""What it calls the Listener of a server; ``%s`` is the application's port."""

INVALID = "invalid"
"""A cluster that never exists, in our own control plane's tables: what is sent there gets a 500."""


class Discovery(StrEnum):
    """Where the instances of a cluster come from."""

    EDS = "EDS"
    LOGICAL_DNS = "LOGICAL_DNS"
    STATIC = "STATIC"
    AGGREGATE = "AGGREGATE"
    PASSTHROUGH = "PASSTHROUGH"


@frozen
class Destination:
    """One cluster by its ``name``: who may answer (``cluster.identities``), how it is used, where its instances are.

    ``assignment`` names the endpoints to ask for (EDS), ``members`` the clusters that are tried in order (AGGREGATE),
    ``host`` and ``port`` are to be resolved (LOGICAL_DNS), ``endpoints`` came with it (STATIC). ``is_tls`` False: the
    control plane asks for plaintext. ``east_west`` are the SPIFFE IDs of the gateways that may carry us by a detour;
    with none there is no detour, whatever an endpoint says.
    """

    name: str
    cluster: Cluster
    discovery: Discovery = Discovery.EDS
    assignment: str = ""
    members: tuple[str, ...] = ()
    host: str = ""
    port: int = 0
    endpoints: Endpoints | None = None
    is_tls: bool = True
    east_west: tuple[str, ...] = ()


@frozen
class Table:
    """One RouteConfiguration: its virtual hosts, by the names that are looked for in it (gRFC A27, domain search).

    ``ignores_port``: an authority is looked for without its port.
    """

    name: str
    hosts: tuple[VirtualHost, ...]
    ignores_port: bool = False


@frozen
class Told:
    """A client's Listener (``api_listener``): the ``table`` itself, or the name of the one to ask for.

    ``fault`` is for routes that say nothing of their own; ``max_duration`` limits every call, in seconds, 0 for none.
    """

    name: str
    table: Table | None = None
    table_name: str = ""
    fault: Fault | None = None
    max_duration: float = 0.0


@frozen
class ToldServer:
    """A server's Listener: how calls to one port of the application are received."""

    name: str
    inbound: Inbound
    port: int = 0
