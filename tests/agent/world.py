"""Real processes for tests of the agent: runners, their agent, its Envoys; all ended by pid when the test ends."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.plane import Plane
from masche.agent import local
from masche.agent.folders import Folders
from masche.agent.local import AgentStatus, AskStatus, SeatStatus
from taken_ports import MACHINES

RUNNER = """
import json, sys
from pathlib import Path
from masche.agent.options import RunOptions
from masche.model.port import Port
from masche.agent.runner import run
given = json.loads(sys.argv[1])
given["data"] = Path(given["data"])
given["command"] = tuple(given["command"])
given["ports"] = tuple(Port(**port) for port in given["ports"])
sys.exit(run(RunOptions(**given)))
"""

ECHO = """
import http.server, os, sys, signal
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (os.environ.get("ANSWER", "hello") + " from " + str(os.getpid())).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def free_port() -> int:
    """A port below the ephemeral range that nobody has, and no other test gets."""
    return MACHINES.free()


async def until(condition: Callable[[], Any], *, within: float = 30.0, what: str = "") -> Any:
    """Wait until ``condition`` is true (or has an awaitable that is) and return its value."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"not within {within} s: {what or condition}"
        await asyncio.sleep(0.02)


@dataclass(eq=False)
class Runner:
    """One ``masche run`` in a process of its own."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list[str])

    async def read(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(eq=False)
class World:
    """One machine."""

    data: Path
    plane: Plane
    runners: list[Runner] = field(default_factory=list[Runner])
    _tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    @property
    def folders(self) -> Folders:
        return Folders(self.data)

    async def run(self, service: str, *command: str, port: int = 0, **options: Any) -> Runner:
        import msgspec

        ports = [{"port": port}] if port else []
        words = {
            "data": str(self.data),
            "service": service,
            "namespace": "shop",
            "ports": ports,
            "command": list(command) or [sys.executable, "-c", ECHO],
            **options,
        }
        environment = {**os.environ, **options.pop("env", {})}
        words.pop("env", None)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RUNNER, msgspec.json.encode(words).decode()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        runner = Runner(process)
        self.runners.append(runner)
        self._tasks.append(asyncio.create_task(runner.read()))
        return runner

    async def status(self) -> AgentStatus | None:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.folders.agent_socket))
        except OSError:
            return None
        try:
            writer.write(local.line(AskStatus()))
            answer = await local.read_answer(reader)
            return answer if isinstance(answer, AgentStatus) else None
        finally:
            writer.close()

    async def seat(self, service: str) -> SeatStatus | None:
        status = await self.status()
        return (
            next((one for one in status.seats if one.workload.startswith(f"shop/{service}-")), None) if status else None
        )

    async def ready(self, service: str) -> SeatStatus:
        async def found() -> SeatStatus | None:
            seat = await self.seat(service)
            return seat if seat and seat.phase == "READY" else None

        try:
            return await until(found, within=30, what=f"{service} READY")
        except AssertionError as error:
            said = "\n".join(runner.text for runner in self.runners)
            log = self.folders.agent_log
            raise AssertionError(f"{error}\n{said}\n{log.read_text() if log.exists() else ''}") from error

    async def end(self) -> None:
        for runner in self.runners:
            with contextlib.suppress(ProcessLookupError):
                runner.process.send_signal(signal.SIGTERM)
        for runner in self.runners:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(runner.process.wait(), 20)
        if status := await self.status():

            async def is_empty() -> bool:
                now = await self.status()
                return now is None or not now.seats

            await until(is_empty, what="all seats free")
            os.kill(status.pid, signal.SIGTERM)
            await until(lambda: not _is_alive(status.pid))
        await asyncio.gather(*self._tasks)


def _is_alive(pid: int) -> bool:
    from masche.agent.processes import identify

    return identify(pid) is not None


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    plane = Plane(tmp_path / "authority", tmp_path / "data" / "control.sock")
    await plane.start()
    one = World(data=tmp_path / "data", plane=plane)
    try:
        yield one
    finally:
        await one.end()
        await plane.stop()


async def fetch(url: str) -> tuple[int, str]:
    """A GET over one new connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return (int(head.split()[1]) if head else 0), body.decode()
    finally:
        writer.close()
