"""``masche status``: the control plane and every proxy, in sync or not, in the proxies' own words."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from masche.cli.options import data_option, output_option
from masche.cli.output import Form, emit, say, styled, table
from masche.cli.text import finding, span, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from masche.api.messages import MeshStatus, PlaneFacts, ProxyStatus

STATE_STYLES = {"READY": "green", "STARTING": "yellow", "DRAINING": "yellow", "UNHEALTHY": "red"}


@click.command()
@click.option("--wide", is_flag=True, help="Also addresses, identities, Envoy's version and how long connected.")
@output_option
@data_option
def status(*, wide: bool, form: Form | None, data: Path) -> None:
    """The control plane and every proxy: placement, certificate, in sync or not, what it rejected."""
    from masche.api.client import Client

    found = Client.of(data).status()
    if form is not None:
        emit(found, form)
        return
    _say_plane(found.plane)
    _say_proxies(found, is_wide=wide, now=time.time())


def _say_plane(plane: "PlaneFacts") -> None:
    say(f"control plane {plane.version}, up {span(plane.uptime)}, revision {plane.revision}, {plane.store}")
    say(
        f"trust domain {plane.trust_domain}"
        + (f", agents connect to {plane.link_address}" if plane.link_address else "")
    )
    if plane.waiting_for:
        say(f"not ready: waiting for {', '.join(plane.waiting_for)}", "yellow")
    leases = plane.leases
    if leases.held_back:
        say(f"{leases.held_back} expired leases are held back: {leases.reason}", "yellow")
    elif not leases.is_counting:
        say(f"leases are not counted: {leases.reason}", "yellow")
    for panic in plane.panics:
        say(panic, "red")
    for diagnostic in plane.findings:
        click.echo(finding(diagnostic))


def _say_proxies(found: "MeshStatus", *, is_wide: bool, now: float) -> None:
    headings = ["workload", "service", "placement", "machine", "state", "certificate", "config"]
    headings += ["proxy", "zone", "address", "ports", "identity", "envoy", "connected"] if is_wide else []
    rows = [[*_row(proxy, now=now), *(_wide(proxy, now=now) if is_wide else [])] for proxy in found.proxies]
    table(headings, rows, empty="no proxy is registered")
    _say_nodes(found.proxies)
    for proxy in found.proxies:
        _say_trouble(proxy)


def _say_nodes(proxies: "Sequence[ProxyStatus]") -> None:
    """The proxies that serve several workloads, each with its own."""
    nodes: dict[str, list[ProxyStatus]] = {}
    for each in proxies:
        if each.placement == "node":
            nodes.setdefault(each.proxy, []).append(each)
    for proxy, served in sorted(nodes.items()):
        names = ", ".join(each.workload for each in served)
        say(f"{proxy} on {served[0].machine} serves {len(served)} workload{'s' * (len(served) != 1)}: {names}")


def _row(proxy: "ProxyStatus", *, now: float) -> "list[str | Text]":
    return [
        proxy.workload,
        proxy.service,
        proxy.placement,
        proxy.machine,
        styled(proxy.state, STATE_STYLES.get(proxy.state, "")),
        until(proxy.certificate_expires_at, now=now),
        _sync(proxy),
    ]


def _sync(proxy: "ProxyStatus") -> "Text":
    if not proxy.is_connected:
        return styled("absent", "dim")
    if proxy.is_silent:
        return styled("silent", "red")
    if proxy.rejections:
        return styled(f"rejected {len(proxy.rejections)}", "red")
    return styled("in sync", "green") if proxy.is_in_sync else styled(f"behind (at {proxy.revision})", "yellow")


def _wide(proxy: "ProxyStatus", *, now: float) -> list[str]:
    ports = ",".join(f"{port.app_port}<-{port.mesh_port}" for port in proxy.ports)
    connected = span(now - proxy.connected_since_at) if proxy.connected_since_at else "-"
    return [proxy.proxy, proxy.zone, proxy.address, ports, proxy.identity, proxy.envoy_version, connected]


def _say_trouble(proxy: "ProxyStatus") -> None:
    for rejection in proxy.rejections:
        say(f"{proxy.workload} rejected {rejection.name}: {rejection.words}", "red")
    if proxy.last_error:
        say(f"{proxy.workload}: {proxy.last_error}", "yellow")
    if proxy.is_exposed:
        say(
            f"{proxy.workload} is exposed: its application listens beyond loopback and can be reached past the mesh",
            "yellow",
        )
