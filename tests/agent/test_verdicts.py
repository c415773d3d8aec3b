"""Whom an Envoy cuts off is said at once, and only that."""

import asyncio
import json
import os
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.plane import reference
from agent.world import World, free_port, until
from masche.agent.verdicts import LIMIT_BYTES, Line, Tail, read, verdict
from masche.link.messages import Verdict
from masche.model.refs import PortRef

IS_LONG = os.environ.get("MASCHE_LONG") == "1"
ORDERS = PortRef("shop", "orders", 80)


def _line(**more: Any) -> Line:
    said = {
        "type": "CONSECUTIVE_5XX",
        "timestamp": "2026-11-23T00:10:06.415Z",
        "cluster_name": ORDERS.path,
        "upstream_url": "10.0.0.1:15006",
        "action": "EJECT",
        "num_ejections": 1,
        "enforced": True,
        "eject_consecutive_event": {},
    }
    line = read(json.dumps({**said, **more}).encode())
    assert line
    return line


def test_an_ejection_names_the_endpoint_and_its_cause() -> None:
    found = verdict(_line(), "web")
    assert found == Verdict(
        proxy="web", service=ORDERS, endpoint="10.0.0.1:15006", is_ejected=True, cause="consecutive server errors"
    )


def test_an_instance_that_comes_back_is_let_in_and_envoy_never_calls_that_enforced() -> None:
    found = verdict(_line(action="UNEJECT", enforced=False), "web")
    assert found
    assert (found.is_ejected, found.cause) == (False, "its time is served")


def test_a_detour_that_is_cut_off_is_not_the_direct_way() -> None:
    found = verdict(_line(upstream_url="envoy://detour/10.0.0.1:15006@10.0.9.1:15008"), "web")
    assert found
    assert (found.endpoint, found.via) == ("10.0.0.1:15006", "10.0.9.1:15008")


def test_what_is_no_verdict_on_an_endpoint_of_the_mesh_is_passed_over() -> None:
    thoughts = (_line(enforced=False), _line(cluster_name="passthrough"), _line(action="?"))
    assert [found for line in thoughts if (found := verdict(line, "web"))] == []


def test_what_is_no_line_of_envoys_is_passed_over() -> None:
    assert [found for line in (b"", b"{", b"[]", b"\xff") if (found := read(line))] == []


def test_only_whole_lines_that_came_since_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    tail = Tail(path)
    assert tail.lines() == ()
    with path.open("ab") as file:
        file.write(b"one\ntw")
        file.flush()
        assert tail.lines() == (b"one",)
        file.write(b"o\n")
    assert tail.lines() == (b"two",)


def test_a_file_that_appears_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.lines() == ()
    (tmp_path / "log").write_bytes(b"one\n")
    assert tail.lines() == (b"one",)


def test_a_file_never_grows_beyond_its_limit_by_more_than_what_came_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    tail, line, read = Tail(path), b"x" * 999 + b"\n", 0
    tail.lines()
    for _ in range(2 * LIMIT_BYTES // len(line)):
        with path.open("ab") as file:
            file.write(line)
        read += len(tail.lines())
        assert path.stat().st_size <= LIMIT_BYTES + len(line)
    assert read == 2 * LIMIT_BYTES // len(line)


async def test_an_ejection_is_known_within_a_second_and_so_is_the_way_back(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    machine.plane.strangers["orders"] = [("127.0.0.1", free_port())]
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    await machine.run("web", port=free_port())
    web = await machine.ready("web")
    [local] = machine.plane.state_of("web").occupants[0].seat.local_ports
    [(host, port)] = machine.plane.strangers["orders"]

    async def called() -> list[Verdict]:
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            await reader.read()
            writer.close()
        return _said(machine)

    def ejections() -> int:
        return sum(one.is_ejected for one in _said(machine))

    outliers = machine.folders.seat(web.workload) / "outliers.log"
    await until(outliers.exists)
    first = (await until(called, what="a verdict"))[0]
    late = time.time() - _ejected_at(outliers)
    assert late < (1.0 if IS_LONG else 5.0), "Envoy would write its files every 10 s if it were not told"
    assert (first.proxy, first.service, first.endpoint) == (web.proxy, local.service, f"{host}:{port}")
    assert first.is_ejected
    assert first.cause == "consecutive server errors"
    await until(lambda: not _said(machine)[-1].is_ejected, within=10, what="the way back")
    assert ejections() >= 1


def _ejected_at(log: Path) -> float:
    """When Envoy cut the first one off, by its own clock, which is ours."""
    line = next(
        line for line in log.read_text().splitlines() if '"action":"EJECT"' in line and '"enforced":true' in line
    )
    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()


def _said(machine: World) -> list[Verdict]:
    return [one for one in machine.plane.history if isinstance(one, Verdict)]
