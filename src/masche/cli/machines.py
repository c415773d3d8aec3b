"""Simulated machines on this one: each a network namespace with an address of its own, plugged into one switch.

What runs "on" a machine is started within its namespace (``nsenter --net``); files are everybody's, so each has a data
folder of its own. This machine itself is plugged in too, for the control plane. Invariants: everything is made in one
go and all its names begin alike, so it is found and removed again whatever was killed; nobody's network is touched.
"""

import contextlib
import ipaddress
import json
import os
import subprocess
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from masche.agent.capture.names import NAMESPACES
from masche.agent.processes import ProcessId, identify
from masche.cli.switch import Switch, Tap, in_a_thread

HOME: Final = "home"
"""This machine, as a plug of the switch."""

NETWORK: Final = ipaddress.ip_network("198.18.0.0/15")
"""Set aside for benchmarks of networks (RFC 2544), so no network that leads anywhere has such addresses."""

_PREFIX_LENGTH: Final = 24
_HOME_NUMBER: Final = 254
_NOTE: Final = "machines.json"


class MachinesError(Exception):
    """There can be no machines here; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One simulated machine, in a zone of its own name."""

    zone: str
    namespace: str
    address: str
    data: Path

    def words(self, words: Sequence[str]) -> list[str]:
        """What starts a program there."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", *words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """All of them; ``home`` is this machine's own address among them."""

    home: str
    each: dict[str, Machine]
    switch: Switch

    def __getitem__(self, zone: str) -> Machine:
        return self.each[zone]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.each.values())


def _note(folder: Path, prefix: str, data: Iterable[Path]) -> None:
    """Write down whose the machines are and what is made for them, before it is made."""
    owner = identify(os.getpid())
    noted = {"owner": owner, "prefix": prefix, "data": [str(each) for each in data]}
    (folder / _NOTE).write_text(json.dumps(noted))


@contextlib.contextmanager
def opened(folder: Path, zones: Sequence[str], *, prefix: str, tap: Tap | None = None) -> Generator[Machines]:
    """Make the machines, and remove them at the end. ``prefix`` has at most 9 characters.

    Raises:
        MachinesError: we are not root, or ``ip`` cannot do it.
    """
    lacking = what_lacks()
    if lacking:
        raise MachinesError(lacking)
    network = next(_free_networks())
    data = {zone: folder / zone for zone in zones}
    _note(folder, prefix, data.values())
    each = {
        zone: Machine(zone=zone, namespace=f"{prefix}-{zone}", address=str(network[number]), data=data[zone])
        for number, zone in enumerate(zones, start=1)
    }
    home = str(network[_HOME_NUMBER])
    try:
        _ip(_made(prefix, each.values(), home))
        plugs = {zone: f"{prefix}{number}" for number, zone in enumerate((*zones, HOME), start=1)}
        switch = Switch(str(NAMESPACES / f"{prefix}-switch"), plugs, tap=tap)
        with in_a_thread(switch):
            yield Machines(home=home, each=each, switch=switch)
    finally:
        end(folder)


def what_lacks() -> str:
    """Why there can be no machines here; "" when there can."""
    if os.uname().sysname != "Linux":
        return "simulated machines are network namespaces, which only Linux has: leave --machines out"
    if os.geteuid() != 0:
        return "simulated machines are network namespaces, which only root may make: use sudo, or leave --machines out"
    try:
        _ip("netns list\n")
    except (OSError, MachinesError) as error:
        return f"simulated machines need `ip` (iproute2) and the right to make network namespaces: {error}"
    return ""


def _made(prefix: str, machines: Iterable[Machine], home: str) -> str:
    lines = [f"netns add {prefix}-switch"]
    number = 0
    for number, machine in enumerate(machines, start=1):
        end, name = f"{prefix}{number}", machine.namespace
        lines += [
            f"netns add {name}",
            f"link add {end} netns {prefix}-switch type veth peer name eth0 netns {name}",
            f"-n {name} link set lo up",
            f"-n {name} address add {machine.address}/{_PREFIX_LENGTH} dev eth0",
            f"-n {name} link set eth0 up",
            f"-n {prefix}-switch link set {end} up",
        ]
    end = f"{prefix}{number + 1}"
    lines += [
        f"link add {end} netns {prefix}-switch type veth peer name {prefix}-home",
        f"address add {home}/{_PREFIX_LENGTH} dev {prefix}-home",
        f"link set {prefix}-home up",
        f"-n {prefix}-switch link set {end} up",
    ]
    return "".join(f"{line}\n" for line in lines)


def _free_networks() -> Iterator[ipaddress.IPv4Network]:
    said = subprocess.run(["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True).stdout  # noqa: S607 - found by PATH, as an administrator has it
    taken = [ipaddress.ip_interface(line.split()[3]).network for line in said.splitlines()]
    every = [each for each in NETWORK.subnets(new_prefix=_PREFIX_LENGTH) if isinstance(each, ipaddress.IPv4Network)]
    start = os.getpid() % len(every)
    for each in (*every[start:], *every[:start]):
        if not any(each.overlaps(other) for other in taken):
            yield each


def _ip(text: str) -> None:
    """Do what lines say, each as ``ip`` takes it; a namespace cannot be named within a batch, so they are grouped."""
    for where, lines in _batches(text):
        words = ["ip", *where, "-batch", "-"]
        done = subprocess.run(words, input=lines, capture_output=True, text=True, check=False)  # noqa: S603 - ours alone
        if done.returncode:
            raise MachinesError(done.stderr.strip() or f"{' '.join(words)} ended with {done.returncode}")


def _batches(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    found: list[tuple[tuple[str, ...], list[str]]] = []
    for line in text.splitlines():
        words = line.split()
        where = ("-n", words[1]) if words[0] == "-n" else ()
        rest = " ".join(words[2:] if where else words)
        if not found or found[-1][0] != where:
            found.append((where, []))
        found[-1][1].append(rest)
    for where, lines in found:
        yield where, "".join(f"{line}\n" for line in lines)


def remove(prefix: str) -> None:
    """Remove every namespace and link whose name begins so; what is in a namespace goes with it."""
    for path in sorted(NAMESPACES.glob(f"{prefix}-*")):
        subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)  # noqa: S603, S607 - as above
    subprocess.run(["ip", "link", "del", f"{prefix}-home"], capture_output=True, check=False)  # noqa: S603, S607 - as above


def end(folder: Path) -> None:
    """End the agents of the machines that were made for ``folder``, if any were, and remove all that was made."""
    from masche.agent.cleanup import cleanup
    from masche.agent.folders import Folders
    from masche.agent.stopping import stop_agent

    with contextlib.suppress(OSError, ValueError, KeyError):
        noted = json.loads((folder / _NOTE).read_text())
        for data in map(Path, noted["data"]):
            stop_agent(Folders(data))
            cleanup(data, lambda _: None)
        remove(noted["prefix"])


def sweep(folders: Iterable[Path]) -> list[Path]:
    """Remove the machines whose makers were killed together with whoever was to tidy up, and say where those were."""
    return [folder for folder in folders if _is_left(folder) and not end(folder)]


def _is_left(folder: Path) -> bool:
    try:
        owner = ProcessId(*json.loads((folder / _NOTE).read_text())["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return identify(owner.pid) != owner
