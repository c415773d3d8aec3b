"""Many idle workloads on one machine: what their proxies and their agent weigh, and how fast they are there.

Memory is PSS: a page that several processes share counts for each in part. What ``masche run`` itself weighs, which
waits beside every command whatever the placement, is counted apart.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from masche.agent.folders import Folders
from masche.agent.local import AgentStatus
from masche.agent.stopping import ask_status
from rig.mesh import NAMESPACE, MascheMesh
from rig.waiting import until

READY_WITHIN = 300.0
SETTLED = 5.0
"""Seconds for which a crowd is left alone before it is weighed."""

_SERVER = (
    "import http.server, sys\n"
    "class Hello(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.send_header('content-length', '2'); self.end_headers()\n"
    "        self.wfile.write(b'ok')\n"
    "    def log_message(self, *_): pass\n"
    "http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Hello).serve_forever()\n"
)
_CALL = (
    "import socket, time, urllib.request\n"
    "until = time.monotonic() + 30\n"
    "while True:\n"
    "    try:\n"
    "        print(urllib.request.urlopen('http://hello/', timeout=5).status); break\n"
    "    except OSError:\n"
    "        assert time.monotonic() < until; time.sleep(0.005)\n"
)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Megabytes of PSS: all Envoys, the agent, and one ``masche run``; ``envoys`` is how many Envoys there are."""

    envoys: int
    envoy_mb: float
    agent_mb: float
    runner_mb: float

    def each(self, workloads: int) -> float:
        """Envoy and agent, divided by the workloads."""
        return (self.envoy_mb + self.agent_mb) / workloads


class Crowd(MascheMesh):
    """``count`` idle workloads of as many services under one placement."""

    def __init__(self, placement: str) -> None:
        super().__init__(f"crowd-{placement}")
        self.placement = placement

        self._idle: list[str] = []

    def begin(self) -> None:
        """The control plane, the agent and one server: with these a machine of the mesh is there."""
        self.stage.start_control_plane()
        port = "8080" if self.placement == "node" else str(self.stage.free_port())
        server = _SERVER.replace("8080", port)
        self._start("hello", ["--port", f"http:{port}"], [sys.executable, "-c", server])
        self._until_ready(1)

    def fill(self, count: int) -> float:
        """Start so many idle workloads at once; return the seconds until all of them are ready."""
        began = time.monotonic()
        for number in range(count):
            self._idle.append(f"idle-{number}")
            self._start(self._idle[-1], ["--port", "http:8081", "--health", "none"], ["sleep", "3600"])
        self._until_ready(count + 1)
        return time.monotonic() - began

    def first_call(self) -> float:
        """The seconds from the start of one more workload to the first answer that it gets from the mesh."""
        words = ["run", "--placement", self.placement, "--service", "newcomer", "--namespace", NAMESPACE]
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "masche", *words, "--", sys.executable, "-c", _CALL],
            env=self.stage.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return time.monotonic() - began

    def weigh(self) -> Weight:
        """What all of it weighs, once it is at rest."""
        time.sleep(SETTLED)
        status = self._agent()
        pids = {seat.envoy_pid for seat in status.seats if seat.envoy_pid}
        runners = [_pss(self.stage.pid(name)) for name in self._idle]
        return Weight(
            envoys=len(pids),
            envoy_mb=sum(map(_pss, pids)),
            agent_mb=_pss(status.pid),
            runner_mb=sum(runners) / max(1, len(runners)),
        )

    def _start(self, name: str, options: Sequence[str], command: Sequence[str]) -> None:
        words = ["run", "--placement", self.placement, "--service", name, "--namespace", NAMESPACE, *options]
        self.stage.start(name, [*words, "--", *command])

    def _agent(self) -> AgentStatus:
        status = ask_status(Folders(self.stage.folder))
        if status is None:
            raise SystemExit("the agent does not answer")
        return status

    def _until_ready(self, count: int) -> None:
        def is_there() -> bool:
            status = ask_status(Folders(self.stage.folder))
            return status is not None and sum(seat.phase == "READY" for seat in status.seats) == count

        until(is_there, f"{count} workloads were not ready", within=READY_WITHIN)


def _pss(pid: int) -> float:
    """Megabytes."""
    with open(f"/proc/{pid}/smaps_rollup") as file:  # noqa: PTH123 - a file of /proc
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
