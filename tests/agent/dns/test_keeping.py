"""Sockets of a name server that has died are kept by a runner, and served again by the next one."""

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import dns.message
import pytest

from agent.dns.resolver import open_here
from agent.world import free_port
from masche.agent.dns.resolvers import HostResolvers
from masche.agent.dns.server import MeshDns
from masche.agent.keeping import Keeper

OWNER = "shop/orders-1"
NAMES = {"orders": ("240.64.0.9",)}
pytestmark = pytest.mark.root


@contextlib.asynccontextmanager
async def agent(folder: Path) -> AsyncIterator[MeshDns]:
    """What of an agent has to do with it. Its end is as sudden as can be without ending this process."""
    made = MeshDns(open_socket=open_here, resolvers=HostResolvers(folder / "resolv.conf"))
    running = asyncio.create_task(made.lender.run(folder / "names.sock"))
    while not (folder / "names.sock").exists():
        await asyncio.sleep(0.01)
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "resolv.conf").write_text("")
    return tmp_path


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"nk{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield f"/var/run/netns/{name}"
    subprocess.run(["ip", "netns", "del", name], check=True)


async def keep(folder: Path, keeper: Keeper, port: int) -> None:
    """Let an agent serve there until the keeper has its sockets, and be gone."""
    async with agent(folder) as first:
        server = await first.serve("", port, lambda: NAMES, owner=OWNER)
        await keeper.fetch(OWNER)
        await server.close()


def descriptors() -> int:
    return len(tuple(Path("/proc/self/fd").iterdir()))


async def test_what_is_asked_while_no_agent_runs_is_answered_by_the_next_one(folder: Path) -> None:
    """By UDP and by TCP; without a keeper the first question would be refused, and so would the connection."""
    port, keeper = free_port(), Keeper(folder / "names.sock")
    await keep(folder, keeper, port)
    query = dns.message.make_query("orders", "A").to_wire()
    with socket.socket(type=socket.SOCK_DGRAM) as asker, socket.socket() as caller:
        for each in (asker, caller):
            each.settimeout(10)
            each.connect(("127.0.0.1", port))
        asker.send(query)
        caller.sendall(len(query).to_bytes(2) + query)
        async with agent(folder) as second:
            await keeper.bring(OWNER)
            server = await second.serve("", port, lambda: NAMES, owner=OWNER)
            for each, skipped in ((asker, 0), (caller, 2)):
                said = (await asyncio.to_thread(each.recv, 4096))[skipped:]
                assert dns.message.from_wire(said).answer[0].to_text().endswith("240.64.0.9")
            await server.close()
    keeper.close()


async def test_what_was_kept_is_left_when_another_port_is_wanted_and_nothing_stays_open(folder: Path) -> None:
    port, other, keeper = free_port(), free_port(), Keeper(folder / "names.sock")
    before = descriptors()
    await keep(folder, keeper, port)
    async with agent(folder) as second:
        await keeper.bring(OWNER)
        server = await second.serve("", other, lambda: NAMES, owner=OWNER)
        keeper.close()
        with socket.socket() as caller, pytest.raises(ConnectionRefusedError):
            caller.connect(("127.0.0.1", port))
        with socket.socket() as caller:
            caller.connect(("127.0.0.1", other))
        await server.close()
    assert descriptors() == before


async def test_sockets_of_another_namespace_are_not_served(folder: Path, netns: str) -> None:
    """A namespace of the same name, made anew, is another one."""
    port, keeper = free_port(), Keeper(folder / "names.sock")
    await keep(folder, keeper, port)
    async with agent(folder) as second:
        await keeper.bring(OWNER)
        assert len(second.lender._brought[OWNER]) == 4
        assert second._brought(OWNER, netns, port) == ()
    keeper.close()


async def test_without_an_agent_nothing_is_kept_and_nothing_is_in_the_way_of_the_next(folder: Path) -> None:
    port, keeper = free_port(), Keeper(folder / "names.sock")
    await keep(folder, keeper, port)
    await keeper.bring(OWNER)
    assert "0 sockets" in repr(keeper)
    async with agent(folder) as second:
        await (await second.serve("", port, lambda: NAMES, owner=OWNER)).close()


async def test_what_nobody_serves_is_closed(folder: Path) -> None:
    """Whose claim is refused would else have an open socket keep its port, and its namespace."""
    port, keeper = free_port(), Keeper(folder / "names.sock")
    await keep(folder, keeper, port)
    async with agent(folder) as second:
        await keeper.bring(OWNER)
        keeper.close()
        with socket.socket() as caller:
            caller.connect(("127.0.0.1", port))
        second.lender.drop(OWNER)
        with socket.socket() as caller, pytest.raises(ConnectionRefusedError):
            caller.connect(("127.0.0.1", port))


async def test_want_of_descriptors_ends_no_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, refused = asyncio.get_running_loop(), asyncio.Event()
    accept = loop.sock_accept

    async def exhausted(_listener: socket.socket) -> tuple[socket.socket, object]:
        monkeypatch.setattr(loop, "sock_accept", accept)
        refused.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(loop, "sock_accept", exhausted)
    async with agent(folder) as found:
        await asyncio.wait_for(refused.wait(), 10)
        server = await found.serve("", free_port(), lambda: NAMES, owner=OWNER)
        keeper = Keeper(folder / "names.sock")
        await keeper.fetch(OWNER)
        assert "4 sockets" in repr(keeper)
        keeper.close()
        await server.close()


async def test_only_this_user_may_have_them(folder: Path) -> None:
    async with agent(folder):
        assert (folder / "names.sock").stat().st_mode & 0o777 == 0o600
    assert not (folder / "names.sock").exists()
