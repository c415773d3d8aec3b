"""Asks one Envoy what a Report needs: its totals, whom it has cut off, and what it has been sent and does not use yet.

The last two are long answers, so they are asked for only when a gauge says that there is something to know.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from masche.agent import admin, meter, pages
from masche.agent.meter import Meter, Reading, Way
from masche.agent.pages import Reader
from masche.agent.sidecar import Sidecar


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One proxy as it is now; ``reading`` is None when its Envoy does not answer."""

    sidecar: Sidecar
    reading: Reading | None = None
    ejected: frozenset[Way] = frozenset()
    warming: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """What is remembered of one Envoy between two looks."""

    reader: Reader = field(default_factory=Reader)
    meter: Meter = field(default_factory=Meter)


async def look(sidecar: Sidecar, watched: Watched) -> Sight:
    """Read the Envoy of one seat, and what is new since it was looked at last."""
    socket, pid = sidecar.place.admin, sidecar.supervisor.pid
    try:
        page = await _page(socket, watched.reader)
    except (admin.AdminError, msgspec.DecodeError):
        return Sight(sidecar=sidecar)
    reading = watched.meter.read(page, process=pid, is_inherited=sidecar.supervisor.is_inherited)
    return Sight(
        sidecar=sidecar,
        reading=reading,
        ejected=await _ejected(socket) if reading.has_ejected else frozenset(),
        warming=await _warming(socket) if reading.has_warming else (),
    )


async def _page(socket: Path, reader: Reader) -> pages.Page:
    numbers = await admin.ask(socket, pages.NUMBERS)
    histograms = await admin.ask(socket, pages.HISTOGRAMS)
    return reader.read(numbers.body, histograms.body)


class _Socket(msgspec.Struct):
    address: str = ""
    port_value: int = 0


class _Internal(msgspec.Struct):
    endpoint_id: str = ""


class _Address(msgspec.Struct):
    socket_address: _Socket = msgspec.field(default_factory=_Socket)
    envoy_internal_address: _Internal | None = None

    def __str__(self) -> str:
        socket, inside = self.socket_address, self.envoy_internal_address
        host = f"[{socket.address}]" if ":" in socket.address else socket.address
        return inside.endpoint_id if inside else f"{host}:{socket.port_value}"


class _Health(msgspec.Struct):
    failed_outlier_check: bool = False


class _Host(msgspec.Struct):
    address: _Address = msgspec.field(default_factory=_Address)
    health_status: _Health = msgspec.field(default_factory=_Health)


class _Cluster(msgspec.Struct):
    name: str = ""
    host_statuses: tuple[_Host, ...] = ()


class _Clusters(msgspec.Struct):
    cluster_statuses: tuple[_Cluster, ...] = ()


async def _ejected(socket: Path) -> frozenset[Way]:
    """The endpoints that Envoy's outlier detection has cut off."""
    try:
        found = msgspec.json.decode((await admin.ask(socket, "/clusters?format=json")).body, type=_Clusters)
    except (admin.AdminError, msgspec.DecodeError):
        return frozenset()
    return frozenset(
        way
        for cluster in found.cluster_statuses
        for host in cluster.host_statuses
        if host.health_status.failed_outlier_check and (way := meter.way_to(cluster.name, str(host.address)))
    )


class _Named(msgspec.Struct):
    name: str = ""


class _Warming(msgspec.Struct):
    cluster: _Named = msgspec.field(default_factory=_Named)
    name: str = ""
    warming_state: dict[str, object] | None = None


class _Dump(msgspec.Struct):
    configs: tuple[_Warming, ...] = ()


async def _warming(socket: Path) -> tuple[str, ...]:
    """The names of the clusters and listeners that Envoy has been sent and does not use yet."""
    found: list[str] = []
    for resource in ("dynamic_warming_clusters", "dynamic_listeners"):
        try:
            answer = await admin.ask(socket, f"/config_dump?resource={resource}")
            dump = msgspec.json.decode(answer.body, type=_Dump)
        except (admin.AdminError, msgspec.DecodeError):
            continue
        found += [one.cluster.name or one.name for one in dump.configs if one.cluster.name or one.warming_state]
    return tuple(sorted(found))
