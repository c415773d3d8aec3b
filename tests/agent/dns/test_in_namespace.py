"""Mesh DNS where it is meant to be: behind the redirection of a workload's namespace, asked by the C library."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.dns.resolver import Resolver
from agent.world import free_port
from masche.agent.capture import rules
from masche.agent.capture.exclusions import NOTHING
from masche.agent.capture.sockets import open_in
from masche.agent.dns.names import Names
from masche.agent.dns.resolvers import HostResolvers
from masche.agent.dns.server import MeshDns

pytestmark = pytest.mark.root

NAMES: Names = {"orders.shop": ("240.64.0.9", "fd6d:6173:6368::9"), "orders": ("240.64.0.9", "fd6d:6173:6368::9")}

LOOK_UP = """
import socket, sys
for name in sys.argv[1:]:
    try:
        found = sorted({each[4][0] for each in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        found = [error.strerror]
    print(name, *found)
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"n5d{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["ip", "netns", "exec", name]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        # A way out, though nobody is there: without one the kernel refuses before anything is redirected.
        subprocess.run([*inside, "ip", "link", "add", "out", "type", "veth", "peer", "name", "end"], check=True)
        subprocess.run([*inside, "ip", "address", "add", "10.231.0.2/24", "dev", "out"], check=True)
        for end in ("out", "end"):
            subprocess.run([*inside, "ip", "link", "set", end, "up"], check=True)
        subprocess.run([*inside, "ip", "route", "add", "default", "via", "10.231.0.1"], check=True)
        subprocess.run([*inside, "nft", "-f", "-"], input=rules.table(NOTHING).encode(), check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


async def test_the_c_library_of_a_workload_finds_names_of_the_mesh_and_of_the_world(
    namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    conf = tmp_path_factory.mktemp("host") / "resolv.conf"
    conf.write_text("nameserver 127.0.0.61\n")
    dns = MeshDns(open_socket=open_in, resolvers=HostResolvers(conf), upstream_port=port)
    server = await dns.serve(f"/var/run/netns/{namespace}", rules.DNS_PORT, lambda: NAMES)
    async with Resolver("127.0.0.61", port) as world:
        said = await _inside(namespace, "orders", "ORDERS.shop", "vault.bank.mesh", "www.example.org")
    await server.close()
    lines = dict(line.split(" ", 1) for line in said.splitlines())
    assert lines["orders"].split()[0] == lines["ORDERS.shop"].split()[0] == "240.64.0.9"
    assert "192.0.2.1" in lines["www.example.org"]
    assert "." not in lines["vault.bank.mesh"], "a name that is not in the Scope has an address"
    assert not any("mesh" in each.question[0].name.to_text() for each in world.asked)


async def test_without_a_name_server_no_name_is_found_and_nothing_waits(namespace: str) -> None:
    async with asyncio.timeout(30):
        said = await _inside(namespace, "orders")
    assert "240" not in said


async def _inside(namespace: str, *names: str) -> str:
    words = ["ip", "netns", "exec", namespace, sys.executable, "-c", LOOK_UP, *names]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    return said.decode()
