"""What this machine lacks for workloads with network namespaces of their own, and what works instead.

Asked before anything is changed, but for the kernel, whose want shows when something fails: it is then tried out, in a
namespace that goes away with the trial.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from masche.agent.capture import rules
from masche.agent.capture.apply import CaptureError, Shell
from masche.agent.capture.exclusions import NOTHING

INSTEAD = "--placement sidecar without --capture, or --placement library, needs none of this"

CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN"}
"""The bits of those that the agent must have: to make links and tables, and to enter a namespace."""

PACKAGES = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
"""Programs, and the packages in which distributions have them."""

TRIALS: dict[str, tuple[Sequence[str], str]] = {
    "network namespaces": (("true",), ""),
    "links of type veth": (("ip", "link", "add", "trial0", "type", "veth", "peer", "name", "trial1"), ""),
    "links of type bridge": (("ip", "link", "add", "trial0", "type", "bridge"), ""),
    "nf_tables with redirection (nft_chain_nat, nft_redir, nft_fib_inet, nft_ct, nft_reject_inet)": (
        ("nft", "-f", "-"),
        rules.table(NOTHING),
    ),
}
"""What of the kernel's is needed, and what shows whether it is there."""


def _own_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is asked about this machine; tests answer for another one."""

    platform: str = sys.platform
    capabilities: Callable[[], int] = _own_capabilities
    which: Callable[[str], str | None] = shutil.which
    uid: int = field(default_factory=os.geteuid)


HERE = Machine()


def check(machine: Machine) -> None:
    """Raise CaptureError, with everything that is lacking, unless this machine can have captured workloads."""
    if machine.platform != "linux":
        name = {"darwin": "macOS"}.get(machine.platform, machine.platform)
        raise CaptureError(
            f"capture needs network namespaces and nftables, which Linux has and {name} has not", fix=INSTEAD
        )
    lacking = [*_lacking_rights(machine), *_lacking_programs(machine)]
    if lacking:
        raise CaptureError(f"capture cannot be set up: {'; '.join(lacking)}", fix=INSTEAD)


def can_make_tables(machine: Machine) -> bool:
    """Whether a table of nft could be removed here, if there were one."""
    return machine.platform == "linux" and not _lacking_rights(machine) and machine.which("nft") is not None


def _lacking_rights(machine: Machine) -> list[str]:
    held = machine.capabilities()
    missing = [name for bit, name in CAPABILITIES.items() if not held >> bit & 1]
    if not missing:
        return []
    who = "root here" if machine.uid == 0 else f"uid {machine.uid}"
    return [f"the agent, which runs as {who}, has no {' and no '.join(missing)} (end it, and start masche as root)"]


def _lacking_programs(machine: Machine) -> list[str]:
    missing = [program for program in PACKAGES if machine.which(program) is None]
    return [f"there is no `{program}` (package {PACKAGES[program]})" for program in missing]


async def explained(shell: Shell, error: CaptureError) -> CaptureError:
    """Say what of the kernel's is missing, when that is why something failed."""
    missing: list[str] = []
    for what, (arguments, given) in TRIALS.items():
        try:
            await shell.run(("unshare", "--net", *arguments), given)
        except CaptureError:
            missing.append(what)
    if not missing:
        return error
    return CaptureError(f"this kernel has no {', no '.join(missing)} ({error})", fix=INSTEAD)
