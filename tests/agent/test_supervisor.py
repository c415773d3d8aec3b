"""An Envoy is replaced under load without a call lost, and whatever is killed meanwhile, one serves in the end."""

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from agent.calls import Calls
from agent.world import free_port, until
from masche.agent.envoy import EnvoyError, Place, find, read_record
from masche.agent.processes import identify
from masche.agent.supervisor import Supervisor
from masche.wire.types import PREFIX

RATE = 200.0


class Feed:
    """What tells the Envoys of these tests nothing: all is in their bootstrap."""

    def __init__(self) -> None:
        self.retired = self.turned = 0

    async def until_fed(self) -> None:
        return

    def retire(self) -> None:
        self.retired += 1

    def turn(self) -> None:
        self.turned += 1


class Machine:
    """One place for an Envoy, which serves HTTP and TCP in a namespace ("": our own)."""

    def __init__(self, folder: Path, namespace: str = "") -> None:
        self.place = Place(folder=folder, admin=folder / "node.admin", is_handed_over=True)
        self.namespace = namespace
        self.http, self.tcp = free_port(), free_port()
        self.feed = Feed()
        self.says("first")

    def says(self, word: str) -> None:
        """Change the bootstrap."""
        self.place.bootstrap.write_text(json.dumps(bootstrap(self, word)))

    def supervisor(self) -> Supervisor:
        return Supervisor(find(), self.place, on_restart=lambda _: None, feed=self.feed)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[Supervisor]:
        """An agent's life: it ends and leaves its Envoy."""
        supervisor = self.supervisor()
        running = asyncio.create_task(supervisor.run())
        try:
            await until(lambda: supervisor.pid or running.done(), what="an Envoy runs")
            await supervisor.wait_ready()
            yield supervisor
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def end(self) -> None:
        """End what is left."""
        async with self.kept() as supervisor:
            await supervisor.stop()


def bootstrap(machine: Machine, word: str) -> dict[str, Any]:
    def of(name: str, **body: Any) -> dict[str, Any]:
        return {"name": name, "typed_config": {"@type": PREFIX + name, **body}}

    filters = "envoy.extensions.filters."
    answer = {"status": 200, "body": {"inline_string": word}}
    manager = of(
        f"{filters}network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        route_config={
            "virtual_hosts": [
                {"name": "any", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": answer}]}
            ]
        },
        http_filters=[of(f"{filters}http.router.v3.Router")],
    )
    echo = of(f"{filters}network.echo.v3.Echo")
    where = {"network_namespace_filepath": machine.namespace} if machine.namespace else {}

    def listener(name: str, port: int, each: dict[str, Any]) -> dict[str, Any]:
        address = {"address": "127.0.0.1", "port_value": port, **where}
        return {"name": name, "address": {"socket_address": address}, "filter_chains": [{"filters": [each]}]}

    return {
        "admin": {"address": {"pipe": {"path": str(machine.place.admin), "mode": 0o600}}},
        "static_resources": {
            "listeners": [listener("http", machine.http, manager), listener("tcp", machine.tcp, echo)]
        },
    }


@pytest.fixture
async def machine(short_path: Path) -> AsyncIterator[Machine]:
    made = Machine(short_path)
    yield made
    await made.end()
    assert not list(short_path.glob("node_*")), "sockets are left"


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"n5s{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield f"/var/run/netns/{name}"
    subprocess.run(["ip", "netns", "del", name], check=True)


async def test_an_envoy_is_replaced_under_load_without_a_call_lost(machine: Machine) -> None:
    await _is_replaced_under_load(machine)


@pytest.mark.root
async def test_an_envoy_is_replaced_under_load_in_another_namespace(short_path: Path, namespace: str) -> None:
    machine = Machine(short_path, namespace)
    await _is_replaced_under_load(machine)
    await machine.end()


async def _is_replaced_under_load(machine: Machine) -> None:
    async with machine.kept() as supervisor:
        first = supervisor.pid
        async with Calls(machine.http, machine.tcp, rate=RATE, namespace=machine.namespace) as calls:
            await until(lambda: calls.each(20), what="calls of every kind")
            machine.says("second")
            assert await supervisor.replace()
            assert supervisor.pid != first
            await until(lambda: calls.heard["second"] > 4 * RATE, within=60, what="the second one answers")
            await until(lambda: identify(first) is None, within=60, what="the first one has ended")
        assert calls.failed == []
        assert calls.heard["first"] > 0
    assert (machine.feed.retired, machine.feed.turned) == (1, 0)


async def test_one_that_is_adopted_is_replaced_when_its_bootstrap_is_another(machine: Machine) -> None:
    async with machine.kept() as supervisor:
        first = supervisor.pid
    assert identify(first), "an Envoy ended with its agent"
    async with machine.kept() as supervisor:
        assert supervisor.pid == first
        assert supervisor.is_inherited
    machine.says("second")
    async with machine.kept() as supervisor:
        await until(lambda: supervisor.successions, what="it is replaced")
        assert supervisor.pid != first
        assert not supervisor.is_inherited


async def test_it_can_be_replaced_again_and_again(machine: Machine) -> None:
    async with machine.kept() as supervisor, Calls(machine.http, machine.tcp, rate=20) as calls:
        for turn in range(2):
            machine.says(f"turn {turn}")
            assert await supervisor.replace()
            await until(lambda turn=turn: calls.heard[f"turn {turn}"], what="it answers")
        assert calls.failed == []
        record = read_record(machine.place)
        assert record
        assert record.line.epoch == 2


async def test_a_bootstrap_that_no_envoy_takes_changes_nothing(machine: Machine) -> None:
    async with machine.kept() as supervisor:
        first = supervisor.pid
        machine.place.bootstrap.write_text('{"static_resources": {"no such field": 1}}')
        with pytest.raises(EnvoyError, match="does not take"):
            await supervisor.replace()
        assert supervisor.pid == first
        machine.says("first")


@pytest.mark.parametrize("victim", ["successor", "predecessor", "agent"])
async def test_whatever_is_killed_in_the_middle_one_serves_in_the_end(machine: Machine, victim: str) -> None:
    async with machine.kept() as supervisor:
        first = supervisor.pid
        machine.says("second")
        replacing = asyncio.create_task(supervisor.replace())
        record = await until(lambda: _successor(machine, first), what="there are two")
        if victim == "agent":
            replacing.cancel()
            await asyncio.gather(replacing, return_exceptions=True)
        else:
            os.kill(record.pid if victim == "successor" else first, SIGKILL)
            await asyncio.gather(replacing, return_exceptions=True)
            await until(lambda: supervisor.pid, what="one runs")
            await supervisor.wait_ready()
    async with machine.kept() as supervisor, Calls(machine.http, machine.tcp, rate=20) as calls:
        await until(lambda: calls.heard["second"] and identify(first) is None, within=60, what="the second one alone")
        assert supervisor.pid != first
        found = read_record(machine.place)
        assert found
        assert found.pid == supervisor.pid


async def test_a_crashed_one_is_back_although_it_was_replaced_before(machine: Machine) -> None:
    async with machine.kept() as supervisor:
        machine.says("second")
        await supervisor.replace()
        second = supervisor.pid
        os.kill(second, SIGKILL)
        await until(lambda: supervisor.pid not in {0, second}, what="it is started again")
        await supervisor.wait_ready()
        async with Calls(machine.http, machine.tcp, rate=20) as calls:
            await until(lambda: calls.heard["second"], what="it answers")


def _successor(machine: Machine, first: int) -> Any:
    record = read_record(machine.place)
    return record if record and record.pid != first else None
