"""Asks one Envoy what a Report needs: its totals, how endpoints stand, and what it has been sent and does not use yet.

The last two are long answers: how endpoints stand is asked only of clusters that are in use, and what is warming only
when a gauge says that something is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import msgspec

from masche.agent import admin, meter, pages
from masche.agent.meter import Meter, Reading, Standing, Way
from masche.agent.node import Node
from masche.agent.pages import Reader
from masche.agent.sidecar import Sidecar
from masche.model.refs import PortRef

MOST_CLUSTERS = 200
"""Of so many clusters, at the most, the endpoints are asked for."""


Proxy = Sidecar | Node
"""What has an Envoy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One proxy as it is now; ``reading`` is None when its Envoy does not answer."""

    proxy: Proxy
    reading: Reading | None = None
    endpoints: Mapping[Way, Standing] = field(default_factory=dict[Way, Standing])
    warming: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """What is remembered of one Envoy between two looks."""

    reader: Reader = field(default_factory=Reader)
    meter: Meter = field(default_factory=Meter)


async def look(proxy: Proxy, watched: Watched, *, within: float = admin.WITHIN) -> Sight:
    """Read the Envoy of one proxy, and what is new since it was looked at last; ``within`` seconds it must answer."""
    socket, pid = proxy.place.admin, proxy.supervisor.pid
    try:
        page = await _page(socket, watched.reader, within)
    except (admin.AdminError, msgspec.DecodeError):
        return Sight(proxy=proxy)
    reading = watched.meter.read(page, process=pid, is_inherited=proxy.supervisor.is_inherited)
    return Sight(
        proxy=proxy,
        reading=reading,
        endpoints=await _endpoints(socket, reading.clusters),
        warming=await warming(socket) if reading.has_warming else (),
    )


async def _page(socket: Path, reader: Reader, within: float) -> pages.Page:
    numbers = await admin.ask(socket, pages.NUMBERS, within=within)
    histograms = await admin.ask(socket, pages.HISTOGRAMS, within=within)
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


class _Metric(msgspec.Struct):
    name: str = ""
    value: str = "0"


class _Host(msgspec.Struct):
    address: _Address = msgspec.field(default_factory=_Address)
    health_status: _Health = msgspec.field(default_factory=_Health)
    stats: tuple[_Metric, ...] = ()

    def standing(self) -> Standing:
        numbers = {each.name: int(each.value) for each in self.stats}
        return Standing(
            active=numbers.get("rq_active", 0),
            is_connected=numbers.get("cx_active", 0) > 0,
            is_ejected=self.health_status.failed_outlier_check,
        )


class _Cluster(msgspec.Struct):
    name: str = ""
    host_statuses: tuple[_Host, ...] = ()


class _Clusters(msgspec.Struct):
    cluster_statuses: tuple[_Cluster, ...] = ()


_CLUSTERS = msgspec.json.Decoder(_Clusters)


def question(clusters: Mapping[str, int]) -> str:
    """Return what asks how the endpoints of these clusters stand; of the busiest, when there are many. "" for none."""
    names = sorted((each for each in clusters if PortRef.parse(each)), key=clusters.__getitem__)[-MOST_CLUSTERS:]
    wanted = quote(f"^({'|'.join(map(re.escape, names))})$")
    return f"/clusters?format=json&filter={wanted}" if names else ""


def standing(answer: bytes) -> Mapping[Way, Standing]:
    """Read the answer to ``question``. Raises msgspec.DecodeError."""
    return {
        way: host.standing()
        for cluster in _CLUSTERS.decode(answer).cluster_statuses
        for host in cluster.host_statuses
        if (way := meter.way_to(cluster.name, str(host.address)))
    }


async def _endpoints(socket: Path, clusters: Mapping[str, int]) -> Mapping[Way, Standing]:
    target = question(clusters)
    try:
        return standing((await admin.ask(socket, target)).body) if target else {}
    except (admin.AdminError, msgspec.DecodeError):
        return {}


class _Named(msgspec.Struct):
    name: str = ""


class _Warming(msgspec.Struct):
    cluster: _Named = msgspec.field(default_factory=_Named)
    name: str = ""
    warming_state: dict[str, object] | None = None


class _Dump(msgspec.Struct):
    configs: tuple[_Warming, ...] = ()


_MASKS = {"dynamic_warming_clusters": "cluster.name", "dynamic_listeners": "name,warming_state.version_info"}
"""What is looked at of each. The whole is 25 KB for each listener, once a second of a start."""


async def warming(socket: Path) -> tuple[str, ...]:
    """The names of the clusters and listeners that Envoy has been sent and does not use yet."""
    found: list[str] = []
    for resource, mask in _MASKS.items():
        try:
            answer = await admin.ask(socket, f"/config_dump?resource={resource}&mask={mask}")
            dump = msgspec.json.decode(answer.body, type=_Dump)
        except (admin.AdminError, msgspec.DecodeError):
            continue
        found += [one.cluster.name or one.name for one in dump.configs if one.cluster.name or one.warming_state]
    return tuple(sorted(found))
