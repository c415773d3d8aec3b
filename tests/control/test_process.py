"""The process as a whole: it starts or says why not, and it stops in time."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from control.plant import DOMAIN, eventually, sidecar
from masche.control.doors import SOCKET
from masche.control.options import UpOptions
from masche.control.process import StartError, control_plane
from masche.testing.check_plane import check_plane


def options(data: Path, **more: object) -> UpOptions:
    chosen: dict[str, object] = {"xds_port": 0, "api_port": 0, "metrics_port": 0} | more
    return UpOptions(data=data, **chosen)  # type: ignore[arg-type] - chosen by name


@contextmanager
def taken() -> Iterator[int]:
    """A port that something else listens on, with the one above it free or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def refused(chosen: UpOptions) -> str:
    with pytest.raises(StartError) as caught:
        async with control_plane(chosen):
            pass
    return str(caught.value)


async def test_it_does_what_every_control_plane_behind_the_api_must(tmp_path: Path) -> None:
    async with control_plane(options(tmp_path)) as started:
        await check_plane(started.plane)


async def test_it_serves_metrics_and_the_api_until_it_stops(tmp_path: Path) -> None:
    async with control_plane(options(tmp_path)) as started, httpx.AsyncClient() as client:
        page = await client.get(f"http://127.0.0.1:{started.metrics_port}/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "masche_revision" in page.text
        assert (await client.get(f"{started.api.url}/api/v1/status")).status_code == 401
        assert (tmp_path / SOCKET).is_socket()
        assert (tmp_path / SOCKET).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / SOCKET).exists()


@pytest.mark.parametrize("option", ["xds_port", "api_port", "metrics_port"])
async def test_a_port_that_is_taken_is_named_with_the_option_that_chooses_another(tmp_path: Path, option: str) -> None:
    with taken() as port:
        why = await refused(options(tmp_path, **{option: port}))
    assert str(port) in why
    assert f"--{option.replace('_', '-')}" in why
    async with control_plane(options(tmp_path)):
        pass


async def test_an_address_that_is_not_of_this_machine_is_refused(tmp_path: Path) -> None:
    assert "--listen" in await refused(options(tmp_path, listen="192.0.2.1", xds_port=18012))


async def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert "chmod" in await refused(options(tmp_path))


async def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in await refused(options(tmp_path / "file"))


async def test_an_authority_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    async with control_plane(options(tmp_path)):
        pass
    assert DOMAIN in await refused(options(tmp_path, trust_domain="other.example"))


async def test_a_second_start_on_the_same_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with control_plane(options(tmp_path)) as first:
        before = (tmp_path / SOCKET).stat().st_ino
        assert "in use by another control plane" in await refused(options(tmp_path))
        assert (tmp_path / SOCKET).stat().st_ino == before
        await check_plane(first.plane)


async def test_what_the_block_raises_is_what_comes_out(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with control_plane(options(tmp_path)):
            raise ZeroDivisionError("of the block")


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    from masche.api.messages import Document
    from masche.model.refs import Kind, Ref

    text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n"
    async with control_plane(options(tmp_path)) as started:
        applied = await started.plane.apply([Document(file="a", text=text)], dry_run=False)
    async with control_plane(options(tmp_path)) as started:
        item = await started.plane.get(Ref(Kind.SERVICE, "shop", "web"))
    assert item.revision == applied.revision


async def test_it_ends_on_a_signal_within_ten_seconds_while_a_stream_is_open(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "masche", "up", "--data", str(tmp_path)]
    ports = ["--xds-port", "0", "--api-port", "0", "--metrics-port", "0"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, *ports, stdout=pipe, stderr=pipe)
    try:
        await eventually((tmp_path / SOCKET).is_socket)
        async with open_stream(tmp_path / SOCKET) as told:
            assert await told
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0
        assert process.stderr is not None
        lines = [json.loads(line) for line in (await process.stderr.read()).splitlines() if line.startswith(b"{")]
        assert "machine m1 is connected" in [line["message"] for line in lines], "every event is a line of the log"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def open_stream(path: Path):
    """An agent that stays."""
    from contextlib import asynccontextmanager
    from random import Random

    from masche.link.client import LinkClient, Target
    from masche.link.messages import Accepted, Hello

    @asynccontextmanager
    async def made():
        client = LinkClient(
            [Target(address=f"unix:{path}")], lambda: Hello(machine="m1", agent_version="1"), rng=Random(1)
        )
        client.put(sidecar("web"))
        running = asyncio.create_task(client.run())

        async def accepted() -> bool:
            async for event in client.events():
                if isinstance(event, Accepted):
                    return True
            return False

        try:
            yield asyncio.wait_for(accepted(), 20)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return made()
