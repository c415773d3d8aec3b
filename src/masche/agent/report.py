"""Tells the control plane once a second what this machine's proxies saw.

A Report that was not answered is sent again under its number before anything new is read, so nothing is counted twice
and nothing is left out: Envoy's totals go on in the meantime.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from masche.agent import admin, meter, pages
from masche.agent.meter import Meter, Way
from masche.agent.sidecar import Sidecar
from masche.agent.uplink import Uplink
from masche.link.messages import CertificateReport, ProxyReport, Report
from masche.link.service import RefusedError

INTERVAL = 1.0


class Reporter:
    """Reads every Envoy of the machine and reports."""

    def __init__(
        self, *, machine: str, uplink: Uplink, version: str, sidecars: Callable[[], Iterable[Sidecar]]
    ) -> None:
        self._machine = machine
        self._uplink = uplink
        self._version = version
        self._sidecars = sidecars
        self._meters: dict[str, Meter] = {}
        self._epoch = secrets.token_hex(8)
        self._sequence = 0
        self._read_at = 0.0

    def __repr__(self) -> str:
        return f"<Reporter {self._sequence} reports, {len(self._meters)} proxies>"

    async def run(self) -> None:
        """Report for ever."""
        pending: Report | None = None
        while True:
            await asyncio.sleep(INTERVAL)
            if not self._uplink.is_connected:
                continue
            pending = pending or await self._read()
            try:
                await self._uplink.report(pending)
            except (RefusedError, ConnectionError):
                continue  # the next second tries again with the same one
            pending = None

    async def _read(self) -> Report:
        now = asyncio.get_running_loop().time()
        interval = now - self._read_at if self._read_at else INTERVAL
        self._read_at = now
        sidecars = list(self._sidecars())
        self._meters = {one.proxy: self._meters.get(one.proxy) or Meter() for one in sidecars}
        proxies = [await self._proxy(one) for one in sidecars]
        self._sequence += 1
        return Report(
            machine=self._machine,
            epoch=self._epoch,
            sequence=self._sequence,
            interval=interval,
            proxies=tuple(proxies),
        )

    async def _proxy(self, sidecar: Sidecar) -> ProxyReport:
        identity = sidecar.identity
        certificate = CertificateReport(
            workload=sidecar.name, not_after=identity.not_after, serial=identity.serial, error=identity.error[:4000]
        )
        bare = ProxyReport(
            proxy=sidecar.proxy,
            certificates=(certificate,) if identity.not_after or identity.error else (),
            envoy_version=self._version,
            exposed=sidecar.exposed,
        )
        pid = sidecar.supervisor.pid
        try:
            page = await _page(sidecar.place.admin)
        except (admin.AdminError, msgspec.DecodeError):
            return bare
        reading = self._meters[sidecar.proxy].read(page, process=pid, is_inherited=sidecar.supervisor.is_inherited)
        ejected = await _ejected(sidecar.place.admin) if reading.has_ejected else frozenset[Way]()
        return msgspec.structs.replace(
            bare,
            edges=meter.edges(reading, sidecar.name),
            endpoints=meter.endpoints(reading, ejected),
            is_live=reading.is_live,
            warming=await _warming(sidecar.place.admin) if reading.has_warming else (),
        )


async def _page(socket: Path) -> pages.Page:
    numbers = await admin.ask(socket, pages.NUMBERS)
    histograms = await admin.ask(socket, pages.HISTOGRAMS)
    return pages.parse(numbers.body, histograms.body)


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
