"""What ``masche check`` looks for in the control plane and the mesh: each finding with its cure. Pure."""

from collections.abc import Iterable

from masche.api.access import CheckReport, Finding, Level
from masche.api.messages import MeshStatus
from masche.model.mesh import Mesh
from masche.model.view import MtlsMode

SOON = 3600.0
_ORDER = {Level.ERROR: 0, Level.WARNING: 1, Level.OK: 2}


def check(status: MeshStatus, *, now: float, mesh: Mesh) -> CheckReport:
    """All checks, the worst first. ``now`` is Unix seconds."""
    findings = [
        _synced(status),
        _leases(status),
        _connected(status),
        _rejections(status),
        _certificates(status, now),
        _exposed(status),
        _unhealthy(status),
        _silent(status),
        _panics(status),
        *_permissive(mesh),
        *_resources(status),
    ]
    return CheckReport(findings=tuple(sorted(findings, key=lambda each: _ORDER[each.level])))


def _finding(code: str, title: str, bad: Iterable[str], *, ok: str, level: Level, fix: str) -> Finding:
    """OK when nothing is bad, else the given level with everything that is."""
    wrong = list(bad)
    if not wrong:
        return Finding(code=code, title=title, level=Level.OK, message=ok)
    return Finding(code=code, title=title, level=level, message="; ".join(wrong), fix=fix)


def _synced(status: MeshStatus) -> Finding:
    return _finding(
        "store",
        "The store is read",
        [f"waits for {what}" for what in status.plane.waiting_for],
        ok=f"revision {status.plane.revision} of {status.plane.store}",
        level=Level.ERROR,
        fix="look at the control plane's log; nothing is pushed until it is read",
    )


def _leases(status: MeshStatus) -> Finding:
    leases = status.plane.leases
    return _finding(
        "leases",
        "No expired lease is held back",
        [f"{leases.held_back} held back: {leases.reason}"] if leases.held_back else [],
        ok="none" if leases.is_counting else f"not counted now: {leases.reason}",
        level=Level.WARNING,
        fix="see whether the agents or the network between them and the control plane are down",
    )


def _connected(status: MeshStatus) -> Finding:
    return _finding(
        "proxies",
        "Every proxy is connected and has the current configuration",
        [
            f"{each.workload} {'is behind' if each.is_connected else 'is not connected'}"
            for each in status.proxies
            if not (each.is_connected and (each.is_in_sync or each.rejections))
        ],
        ok=f"{len(status.proxies)} proxies",
        level=Level.WARNING,
        fix="`masche status` shows since when; look at the agent's log on that machine",
    )


def _rejections(status: MeshStatus) -> Finding:
    return _finding(
        "rejections",
        "No proxy rejects a configuration",
        [
            f"{each.workload} rejects {rejection.name}: {rejection.words}"
            for each in status.proxies
            for rejection in each.rejections
        ],
        ok="none",
        level=Level.ERROR,
        fix="`masche describe` of the resource shows what to change; the last good configuration keeps serving",
    )


def _certificates(status: MeshStatus, now: float) -> Finding:
    return _finding(
        "certificates",
        "No certificate ends soon",
        [
            f"{each.workload}'s ends in {max(0, each.certificate_expires_at - now):.0f} s"
            for each in status.proxies
            if each.is_connected and 0 < each.certificate_expires_at < now + SOON
        ],
        ok="all are good for more than an hour",
        level=Level.WARNING,
        fix="they renew by themselves at half-life; look at the agent's log when this stays",
    )


def _exposed(status: MeshStatus) -> Finding:
    return _finding(
        "exposed",
        "No application listens beyond loopback",
        [f"{each.workload} can be reached around the mesh" for each in status.proxies if each.is_exposed],
        ok="none",
        level=Level.WARNING,
        fix="let the application listen on 127.0.0.1 (`masche run` sets HOST), or run with --strict",
    )


def _unhealthy(status: MeshStatus) -> Finding:
    return _finding(
        "health",
        "Every workload is healthy",
        [f"{each.workload}: {each.last_error or each.state}" for each in status.proxies if each.state == "UNHEALTHY"],
        ok="all",
        level=Level.WARNING,
        fix="see the application's own log",
    )


def _silent(status: MeshStatus) -> Finding:
    return _finding(
        "silent",
        "Every Envoy answers its agent",
        sorted({f"{each.proxy} on {each.machine} does not" for each in status.proxies if each.is_silent}),
        ok="all",
        level=Level.ERROR,
        fix="no call gets through an Envoy that is stopped (SIGSTOP): send it SIGCONT; end one that hangs, and its "
        "agent starts another",
    )


def _panics(status: MeshStatus) -> Finding:
    return _finding(
        "panic",
        "Every service that has instances has a healthy one",
        status.plane.panics,
        ok="none calls instances that are all unhealthy or ejected",
        level=Level.ERROR,
        fix="`masche top --instances` and `masche events` say what is the matter with each instance",
    )


def _permissive(mesh: Mesh) -> Iterable[Finding]:
    loose = [str(each.name) for each in mesh.peer_authentications.values() if _is_loose(each.spec.mtls)]
    if mesh.config.spec.mtls is not MtlsMode.STRICT:
        loose.append("MeshConfig default")
    yield _finding(
        "mtls",
        "Mutual TLS is required everywhere",
        [f"{name} lets plaintext in" for name in loose],
        ok="STRICT",
        level=Level.WARNING,
        fix="set mode STRICT once every caller is in the mesh",
    )


def _is_loose(mtls: object) -> bool:
    return getattr(mtls, "mode", None) in {MtlsMode.PERMISSIVE, MtlsMode.DISABLE}


def _resources(status: MeshStatus) -> Iterable[Finding]:
    yield _finding(
        "resources",
        "Every resource is carried out",
        [f"{each.where}: {each.why}" for each in status.plane.findings],
        ok="all",
        level=Level.WARNING,
        fix="`masche describe` of each says what to change",
    )
