"""The words between a runner and the agent of its machine: one JSON object per line on the agent's Unix socket.

A claim lives as long as its connection. Unknown fields are ignored, so either side may be one version ahead.
"""

import asyncio
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from masche.agent.capture.exclusions import NOTHING, Exclusions
from masche.model.vantage import Placement

MAX_LINE_BYTES: Final = 1 << 20


class ClaimPort(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One port of the application; ``protocol`` "" lets its name decide (``grpc``, ``tcp-db``), else HTTP."""

    port: int
    name: str = ""
    protocol: str = ""


class Claim(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="claim"):
    """Give me a seat. ``workload`` is set when the seat is known already and its agent was restarted.

    ``bind`` is where the proxy listens and whence it calls, when that is not ``address``. ``is_captured`` asks for a
    network namespace in which everything goes to the proxy (who is served by the node's always has one); ``netns``
    names one to adopt, ``workload_address`` is the only thing by which the command is known when it has none.
    ``envoy`` is the path of the binary that must serve it ("": any).
    """

    service: str
    namespace: str
    service_account: str
    labels: dict[str, str] = {}
    ports: tuple[ClaimPort, ...] = ()
    dependencies: tuple[str, ...] | None = None
    health: str = "tcp"
    zone: str = ""
    address: str = ""
    metrics_port: int = 0
    bind: str = ""
    placement: Placement = Placement.SIDECAR
    gateway: str = ""
    listen: str = ""
    is_east_west: bool = False
    workload: str = ""
    pid: int = 0
    is_captured: bool = False
    netns: str = ""
    workload_address: str = ""
    exclusions: Exclusions = NOTHING
    envoy: str = ""


class Started(Struct, frozen=True, kw_only=True, tag="started"):
    """The command runs; probe it and look at its sockets."""

    pid: int


class Leave(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="leave"):
    """Take the workload out of traffic. ``is_ended``: the command is gone already, nothing is left to wait for."""

    is_ended: bool = False


class Release(Struct, frozen=True, kw_only=True, tag="release"):
    """The command has ended: stop the proxy and free the seat."""


class AskStatus(Struct, frozen=True, kw_only=True, tag="status"):
    """What runs on this machine?"""


class Upgrade(Struct, frozen=True, kw_only=True, tag="upgrade"):
    """Replace the Envoy that serves several workloads by one of the binary and the bootstrap of now."""


class Prove(Struct, frozen=True, kw_only=True, tag="prove"):
    """As whom do the calls of each workload arrive that shares a proxy here?"""


class Proof(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """As whom a workload's calls are to arrive, and do; ``error`` says why that is not known."""

    workload: str
    expected: str
    found: str = ""
    error: str = ""


class Proved(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="proved"):
    """The answer to Prove."""

    proofs: tuple[Proof, ...] = ()


class Upgraded(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="upgraded"):
    """The answer to Upgrade: ``pid`` of the Envoy that serves now, 0 where there was none to replace."""

    pid: int = 0


class Progress(Struct, frozen=True, kw_only=True, tag="progress"):
    """What the agent waits for now."""

    text: str


class Ready(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="ready"):
    """The proxy serves; start the command with these variables added. ``listens`` is where it takes calls.

    ``namespace_path`` is the file of the network namespace in which to start it ("": the runner's own).
    """

    workload: str
    environment: dict[str, str]
    created: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    namespace_path: str = ""


class Denied(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="denied"):
    """There is no seat: ``why``, and ``fix`` says what to change."""

    why: str
    fix: str = ""


class Exposed(Struct, frozen=True, kw_only=True, tag="exposed"):
    """A port of the command listens beyond loopback, so that calls may go around the proxy."""

    port: int
    address: str


class Phase(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="phase"):
    """The workload is now STARTING, READY, UNHEALTHY or DRAINING."""

    phase: str
    reason: str = ""


class Drained(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="drained"):
    """No caller sends anything more: stop the command. ``is_confirmed`` False means the wait ran out."""

    is_confirmed: bool = True


class Released(Struct, frozen=True, kw_only=True, tag="released"):
    """The seat is free."""


class SeatStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One seat as ``masche status`` shows it. ``not_after`` in seconds since the epoch, 0 for no certificate.

    ``namespace_path`` is the file of the network namespace whose connections are captured, ``address`` the one there.
    """

    workload: str
    proxy: str
    phase: str
    reason: str = ""
    envoy_pid: int = 0
    envoy_restarts: int = 0
    is_online: bool = False
    not_after: float = 0.0
    ports: dict[str, int] = {}
    rejections: dict[str, str] = {}
    namespace_path: str = ""
    address: str = ""


class AgentStatus(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="agent"):
    """The answer to AskStatus. ``is_passing``: a runner started it, and it ends by itself when it has had no seat."""

    pid: int
    machine: str
    control: str
    is_connected: bool
    is_passing: bool = False
    metrics: str = ""
    readiness: str = ""
    seats: tuple[SeatStatus, ...] = ()


ToAgent = Claim | Started | Leave | Release | AskStatus | Upgrade | Prove
FromAgent = Progress | Ready | Denied | Exposed | Phase | Drained | Released | AgentStatus | Upgraded | Proved

T = TypeVar("T")

_encoder: Final = msgspec.json.Encoder()
_to_agent: Final = msgspec.json.Decoder(ToAgent)
_from_agent: Final = msgspec.json.Decoder(FromAgent)


class ProtocolError(Exception):
    """The other side said something that is not of this protocol."""


def line(message: Struct) -> bytes:
    """A message as it is sent."""
    return _encoder.encode(message) + b"\n"


async def read_request(reader: asyncio.StreamReader) -> ToAgent | None:
    """The next message of a runner; None when it hung up. Raises ProtocolError."""
    return await _read(reader, _to_agent)


async def read_answer(reader: asyncio.StreamReader) -> FromAgent | None:
    """The next message of the agent; None when it hung up. Raises ProtocolError."""
    return await _read(reader, _from_agent)


async def _read(reader: asyncio.StreamReader, decoder: "msgspec.json.Decoder[T]") -> T | None:
    try:
        raw = await reader.readline()
    except ConnectionError:
        return None
    except ValueError as error:
        raise ProtocolError(f"a line above {MAX_LINE_BYTES} bytes") from error
    if not raw.endswith(b"\n"):
        return None
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise ProtocolError(str(error)) from error
