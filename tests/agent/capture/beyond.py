"""A machine with a network beyond it, where an excluded port of a workload is called. Run alone, as killed.py is."""

import asyncio
import subprocess
import sys
from pathlib import Path

from masche.agent.capture.exclusions import Exclusions
from masche.agent.capture.host import STAYS, Host
from masche.agent.capture.names import path_of
from masche.model.refs import Name

sys.path.insert(0, str(Path(__file__).parents[2]))

from agent.capture.lab import Listener, call

ORDERS = Name("shop", "orders-1")
BEYOND = "n3t-beyond"
NETWORK = """link set lo up
link add near type veth peer name far
addr add 192.0.2.1/24 dev near
addr add 2001:db8::1/64 dev near nodad
link set near up
netns add n3t-beyond
link set far netns n3t-beyond
"""
INSIDE = """link set lo up
addr add 192.0.2.2/24 dev far
addr add 2001:db8::2/64 dev far nodad
link set far up
"""


def batch(lines: str, *inside: str) -> None:
    subprocess.run(["ip", *inside, "-batch", "-"], input=lines, text=True, check=True)


def ruleset() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


async def main(folder: Path) -> None:
    batch(NETWORK)
    batch(INSIDE, "-n", BEYOND)
    host = Host(folder, file=folder / "hosts.json")
    excluded = Exclusions(outbound_ports=(5432,))
    place = await host.prepare(ORDERS, exclusions=excluded)
    assert place.caution == STAYS
    for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", family).write_text("1")
    place = await host.prepare(ORDERS, exclusions=excluded)
    assert not place.caution
    with (
        Listener(path_of(BEYOND), "192.0.2.2", 5432, "far") as far,
        Listener(path_of(BEYOND), "2001:db8::2", 5432, "far") as far6,
    ):
        assert await asyncio.to_thread(call, place.namespace_path, "192.0.2.2", 5432) == "far 192.0.2.2:5432"
        assert await asyncio.to_thread(call, place.namespace_path, "2001:db8::2", 5432) == "far [2001:db8::2]:5432"
        assert await asyncio.to_thread(call, place.namespace_path, "192.0.2.2", 5433) == "ConnectionRefusedError"
        assert far.peers == ["192.0.2.1"]
        assert far6.peers == ["2001:db8::1"]
    assert host.names.host_table in ruleset()
    await host.prepare(ORDERS)
    assert not ruleset()
    await host.prepare(ORDERS, exclusions=excluded)
    await host.sweep(())
    assert not ruleset()
    again = Host(folder, file=folder / "hosts.json")
    await again.prepare(ORDERS, exclusions=excluded)
    (folder / "hosts.json").unlink()
    await Host(folder, file=folder / "hosts.json").cleanup()
    assert not ruleset()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
