"""Where a workload stands (Vantage) and what is true of it alone on its proxy (Seat).

A Vantage is the whole input of ``compiler.view`` beside the Mesh, and therefore the cache key; what is not in it cannot
leak into a shared result. A Seat is seen by the listener encoder alone.
"""

from enum import StrEnum

from masche.model.frozen import frozen
from masche.model.refs import Name, PortRef


class Placement(StrEnum):
    """Where the mesh runs for a workload."""

    LIBRARY = "library"
    NODE = "node"
    SIDECAR = "sidecar"
    GATEWAY = "gateway"


class Dialect(StrEnum):
    """Who will read the configuration."""

    ENVOY = "envoy"
    GRPC = "grpc"
    LIBRARY = "library"


@frozen
class Vantage:
    """Everything about a workload's place in the mesh that may change what it is told. Nothing else.

    ``labels`` holds only the labels whose keys some resource selects on, sorted; ``dependencies`` is None when the
    workload declares none (it is then given its namespace's services and those exported to it); ``gateway`` names the
    Gateway that a gateway placement carries out; ``is_east_west`` says that it carries detours between zones instead.
    """

    placement: Placement
    dialect: Dialect
    namespace: str
    service_account: str
    zone: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    dependencies: tuple[str, ...] | None = None
    gateway: Name | None = None
    is_east_west: bool = False


@frozen
class SeatPort:
    """One port of the application: its name, where it listens (on ``Seat.app_address``) and where its proxy listens."""

    name: str
    app_port: int
    mesh_port: int


@frozen
class LocalPort:
    """A local listener for one port of one Service: what ``<SERVICE>_URL`` points at."""

    service: PortRef
    port: int


@frozen
class Capture:
    """Where connections arrive that the workload made, or that were made to it, and that nftables redirected.

    ``port`` takes what goes out and ``inbound_port`` what comes in (0: nothing does); both are bound on every address
    of the Seat's network namespace, of IPv6 too when ``has_ipv6``.
    """

    port: int
    inbound_port: int = 0
    has_ipv6: bool = False


@frozen
class Seat:
    """What is true of one workload on one proxy and of nobody else.

    ``bind`` is the address, in the proxy's own network namespace, on which the inbound listeners accept mutual TLS;
    ``proxy_port`` is the loopback port of the explicit HTTP proxy (0 for none); ``gateway_ports`` maps a Gateway
    listener's port to the port really bound: without an entry it is its own, and 0 stands for the only listener of a
    Gateway that has one. ``namespace_path`` is the file of the application's network namespace ("": the proxy's own);
    ``app_address`` and ``capture`` are in that one.
    """

    workload: Name
    bind: str
    ports: tuple[SeatPort, ...] = ()
    proxy_port: int = 0
    local_ports: tuple[LocalPort, ...] = ()
    app_address: str = "127.0.0.1"
    namespace_path: str = ""
    capture: Capture | None = None
    gateway_ports: tuple[tuple[int, int], ...] = ()
