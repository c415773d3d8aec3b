"""Kills the setup of a host at every step, on a machine with no network but its own, and looks at what is left.

Run by a test as ``python killed.py SCENARIO FOLDER``, in a network and a mount namespace of its own: nothing but this
changes what is looked at, so that it can be compared to the last byte.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path

from masche.agent.capture.apply import Shell
from masche.agent.capture.exclusions import Exclusions
from masche.agent.capture.host import Host
from masche.agent.capture.host_rules import Addressed
from masche.agent.capture.names import NAMESPACES
from masche.model.refs import Name

ORDERS, PAYMENT = Name("shop", "orders-1"), Name("shop", "payment-1")
ADOPTED = "n3t-made-by-somebody"

SOMEBODYS = """link set lo up
link add out0 type veth peer name out1
addr add 10.9.9.9/24 dev out0
link set out0 up
link set out1 up
route add default dev out0
"""
"""What somebody else did inside."""

KNOWN = Addressed(address="192.0.2.77", outbound_port=20001, inbound_port=20002, dns_port=20003)

Doing = Callable[[Host], Awaitable[object]]


class Mortal(Shell):
    """Gives ``ip`` one line at a time, and is killed with the whole process after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    async def run(self, arguments: Sequence[str], given: str = "") -> str:
        if "-batch" not in arguments:
            said = await super().run(arguments, given)
            self._step()
            return said
        for line in given.splitlines():
            await super().run(arguments, f"{line}\n")
            self._step()
        return ""

    def _step(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def is_killed(folder: Path, doing: Doing, steps: int) -> bool:
    """Do it in a child that is killed after so many steps; say whether it came to that."""
    child = os.fork()
    if not child:
        try:
            asyncio.run(_do(folder, doing, Mortal(steps)))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


async def _do(folder: Path, doing: Doing, shell: Shell) -> None:
    await doing(Host(folder, file=folder / "hosts.json", shell=shell))


def do(folder: Path, doing: Doing) -> None:
    """Do it in peace."""
    asyncio.run(_do(folder, doing, Shell()))


def said(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def everything() -> str:
    """All there is of this machine's network, in the words of the tools."""
    commands = ("nft list ruleset", "ip -br link", "ip -br addr", "ip route show table all", "ip netns")
    parts = [said(*command.split()) for command in commands]
    parts += [said("nsenter", f"--net={each}", "nft", "list", "ruleset") for each in sorted(NAMESPACES.iterdir())]
    return "\n".join(parts)


def whole() -> object:
    """What was set up, without what differs from one making to the next: indices and hardware addresses."""
    found = {}
    for path in (None, *sorted(NAMESPACES.iterdir())):
        inside = ("-n", path.name) if path else ()
        links = json.loads(said("ip", *inside, "-details", "-json", "addr", "show"))
        found[path.name if path else ""] = {
            "links": {link["ifname"]: _without_chance(link) for link in links},
            "routes": sorted(
                json.dumps({key: route.get(key) for key in ("dst", "gateway", "dev", "protocol", "type")})
                for version in ("-4", "-6")
                for route in json.loads(said("ip", *inside, version, "-json", "route", "show", "table", "all"))
                if not route["dst"].startswith("fe80")
            ),
            "rules": said(*(("nsenter", f"--net={path}") if path else ()), "nft", "list", "ruleset"),
        }
    return found


def _without_chance(link: dict[str, object]) -> object:
    about = link.get("linkinfo") or {}
    addresses = [(one["local"], one["prefixlen"]) for one in link["addr_info"] if one["scope"] != "link"]
    return {
        "addresses": addresses,
        "is up": "UP" in link["flags"],
        "kind": about.get("info_kind"),
        "master": link.get("master"),
        "is isolated": (about.get("info_slave_data") or {}).get("isolated"),
    }


def is_like(reference: object) -> bool:
    """Whether all is as it was; the kernel takes a moment to notice that a link is up."""
    deadline = time.monotonic() + 30
    while (is_so := whole() == reference) is False and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_so


def settled() -> object:
    """What is there once the kernel has noticed everything."""
    deadline = time.monotonic() + 30
    while any(link["operstate"] == "DOWN" for link in json.loads(said("ip", "-json", "link"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return whole()


async def prepare_one(host: Host) -> None:
    await host.prepare(ORDERS, exclusions=Exclusions(outbound_ports=(5432,)))


async def prepare(host: Host) -> None:
    await prepare_one(host)
    await host.prepare(PAYMENT)


async def adopt(host: Host) -> None:
    await host.adopt(ORDERS, ADOPTED)


async def address(host: Host) -> None:
    await host.capture_address(ORDERS, KNOWN, but=())


async def release(host: Host) -> None:
    await host.release(ORDERS)
    await host.release(PAYMENT)


async def sweep(host: Host) -> None:
    await host.sweep({PAYMENT})


async def cleanup(host: Host) -> None:
    await host.cleanup()


def check_making(folder: Path, make: Doing, unmake: Doing) -> int:
    """Killed after any step of ``make``, it is made whole by the next one, and nothing is left after ``unmake``."""
    before = everything()
    do(folder, make)
    reference = settled()
    do(folder, unmake)
    assert everything() == before
    for steps in count(1):
        if not is_killed(folder, make, steps):
            do(folder, unmake)
            return steps - 1
        do(folder, make)
        assert is_like(reference), f"differs when killed after step {steps}"
        do(folder, unmake)
        assert everything() == before, f"something is left when killed after step {steps}"
        is_killed(folder, make, steps)
        do(folder, cleanup)
        assert everything() == before, f"cleanup leaves something when killed after step {steps}"
    raise AssertionError


def check_unmaking(folder: Path, make: Doing, unmake: Doing) -> int:
    """Killed after any step of ``unmake``, the next one ends it, and the next ``make`` makes it whole."""
    before = everything()
    do(folder, make)
    reference = settled()
    for steps in count(1):
        if not is_killed(folder, unmake, steps):
            return steps - 1
        do(folder, make)
        assert is_like(reference), f"differs when killed after step {steps}"
        is_killed(folder, unmake, steps)
        do(folder, cleanup)
        assert everything() == before, f"something is left when killed after step {steps}"
        do(folder, make)
    raise AssertionError


def main(scenario: str, folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    NAMESPACES.mkdir(exist_ok=True)
    subprocess.run(["ip", "netns", "add", ADOPTED], check=True)
    subprocess.run(["ip", "-n", ADOPTED, "-batch", "-"], input=SOMEBODYS, text=True, check=True)
    subprocess.run(["ip", "addr", "add", "192.0.2.77/32", "dev", "lo"], check=True)
    steps = {
        "prepare": lambda: check_making(folder, prepare_one, release),
        "adopt": lambda: check_making(folder, adopt, release),
        "address": lambda: check_making(folder, address, release),
        "release": lambda: check_unmaking(folder, prepare, release),
        "return": lambda: check_unmaking(folder, adopt, release),
        "sweep": lambda: check_unmaking(folder, prepare, sweep),
        "cleanup": lambda: check_unmaking(folder, prepare, cleanup),
    }[scenario]()
    sys.stdout.write(f"{steps}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
