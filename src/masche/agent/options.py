"""What a person asks of the agent's commands, as values: the command line fills them in, this package carries them out.

Times are in seconds. ``data`` is the folder of this machine's state; every path an option names is absolute.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from masche.agent.capture.exclusions import NOTHING, Exclusions
from masche.model.port import Port
from masche.model.vantage import Placement

DEFAULT_GRACE = 10.0
IDLE_EXIT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """``masche agent``, and the agent that ``masche run`` starts.

    ``address`` is where other machines reach this one's proxies ("" asks the route to the control plane, loopback on
    the control plane's own machine). ``idle_exit`` ends an agent that has had no seat for so long; None never does.
    ``envoy`` is the path of an Envoy binary ("" looks for one). ``metrics_address`` is where merged metrics and
    readiness are served. ``address_range`` is the IPv4 network from which workloads with a network namespace of their
    own have their addresses ("": one to which nothing is routed yet).
    """

    data: Path
    envoy: str = ""
    zone: str = ""
    address: str = ""
    metrics_address: str = "127.0.0.1"
    idle_exit: float | None = None
    address_range: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """``masche run``. Without ``ports`` it is a job: it calls others and nobody calls it.

    ``service_account`` "" is the service's name. ``dependencies`` None means every service it may see. ``health`` is
    ``tcp``, ``http:/path``, ``grpc`` or ``none``. ``grace`` is the time between SIGTERM and SIGKILL for the command.
    ``address`` is where others reach its proxy, ``bind`` where that listens and whence it calls ("": there, too).
    With the placement LIBRARY there is no proxy: the command finds its way by gRPC's own xDS client, and is reached
    where it listens itself.

    With the placement NODE, or ``is_captured``, it is in a network namespace from which everything but what is in
    ``exclusions`` goes through the proxy: in one of its own, in that which ``netns`` names, or in none and known by
    ``workload_address`` alone. ``user`` is who runs it there ("": whoever runs this).
    """

    data: Path
    command: tuple[str, ...]
    service: str
    namespace: str = "default"
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    ports: tuple[Port, ...] = ()
    dependencies: tuple[str, ...] | None = None
    health: str = "tcp"
    zone: str = ""
    address: str = ""
    bind: str = ""
    metrics_port: int = 0
    grace: float = DEFAULT_GRACE
    start_timeout: float = 60.0
    is_strict: bool = False
    envoy: str = ""
    placement: Placement = Placement.SIDECAR
    is_captured: bool = False
    netns: str = ""
    workload_address: str = ""
    user: str = ""
    exclusions: Exclusions = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """``masche gateway``: carries out the Gateway ``namespace/gateway`` on ``listen``.

    ``listen`` is ``IP``, or ``IP:PORT`` when the Gateway has one listener. With ``is_east_west`` it carries detours
    between zones instead of a Gateway; then ``namespace`` is the mesh's root namespace and ``listen`` may be "".
    """

    data: Path
    listen: str
    namespace: str = "default"
    gateway: str = "gateway"
    is_east_west: bool = False
    service_account: str = ""
    zone: str = ""
    address: str = ""
    envoy: str = ""
    start_timeout: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """``masche join``: the join string comes from a file or standard input, never from the command line.

    ``token_file`` None reads ``MASCHE_TOKEN_FILE``, else standard input. ``zone`` is where the machine is.
    """

    data: Path
    token_file: Path | None = None
    machine: str = ""
    zone: str = ""
