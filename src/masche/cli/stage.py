"""The stage of the demonstration: a control plane and a shop as real processes, and how they are watched and ended.

Everything lives under one folder and one list of processes; ``close`` ends all of it, in the order in which a mesh is
taken down, whatever happened before.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from masche.api.client import Client, DeniedError, RefusalError, UnreachableError
from masche.api.messages import Applied, Document, MeshStatus, ProxyStatus, RolloutState
from masche.cli.afterwards import Afterwards
from masche.cli.links import Links, in_a_thread
from masche.cli.machines import Machine, Machines, opened
from masche.cli.switch import Tap

SHOP = Path(__file__).with_name("shop")
NAMESPACE = "shop"
FIRST_PORT, LAST_PORT = 10000, 19000
"""Below the range from which the agent takes ports for proxies, so that neither takes the other's."""

PATIENCE = 60.0


class StageError(Exception):
    """Something on the stage did not happen; the message says what and where to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What the customers saw in a stretch of time; latencies in milliseconds."""

    sent: int
    failed: int
    latencies: tuple[float, ...]
    errors: tuple[str, ...]

    def percentile(self, share: float) -> float:
        """The latency that ``share`` of the calls did not exceed (nearest rank); 0.0 without calls."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[max(1, ceil(share * len(ordered))) - 1]


@dataclass(slots=True)
class Stage:
    """All processes of the demonstration."""

    folder: Path
    rate: int = 50
    _ports: set[int] = field(default_factory=set[int])
    _running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict[str, "subprocess.Popen[bytes]"])
    _agents: list["subprocess.Popen[bytes]"] = field(default_factory=list["subprocess.Popen[bytes]"])
    _app_ports: dict[str, int] = field(default_factory=dict[str, int])
    _plane_ports: tuple[int, int, int] = (0, 0, 0)
    gateway_port: int = 0
    lost_in_flight: int = 0
    _afterwards: Afterwards = field(init=False)
    _until_closed: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _listen: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self._afterwards = Afterwards(self.folder)

    @property
    def client(self) -> Client:
        """The API of the control plane."""
        return Client.of(self.folder)

    # -- up and down ----------------------------------------------------------------------------------------------

    def start_control_plane(self) -> None:
        """Start it, or start it again on the same ports, and wait until it answers."""
        if self._plane_ports == (0, 0, 0):
            self._plane_ports = (self.free_port(pair=True), self.free_port(), self.free_port())
        xds, api, metrics = self._plane_ports
        words = ["up", "--listen", self._listen, "--xds-port", str(xds)]
        words += ["--api-port", str(api), "--metrics-port", str(metrics)]
        self.start("control plane", words)
        self.until(self._answers, "the control plane did not answer", watch="control plane")

    def _answers(self) -> bool:
        try:
            return not self.client.status().plane.waiting_for
        except (UnreachableError, DeniedError, RefusalError, OSError):
            return False

    def run(
        self,
        name: str,
        service: str,
        command: Sequence[str],
        *,
        port: bool = True,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        machine: Machine | None = None,
    ) -> None:
        """Start one instance of a service behind its own sidecar; ``name`` is what it calls itself.

        On a simulated machine it is one of those that the machine's Envoy serves.
        """
        options = ("--placement", "node", *options) if machine else options
        words = ["run", "--service", service, "--namespace", NAMESPACE, *options]
        for key, value in (labels or {}).items():
            words += ["--label", f"{key}={value}"]
        if port:
            self._app_ports[name] = self.free_port()
            words += ["--port", f"http:{self._app_ports[name]}", "--health", "http:/healthz"]
        self.start(name, [*words, "--", *command], {"REPLICA": name, **(env or {})}, machine=machine)

    def serve(
        self,
        name: str,
        service: str,
        application: str,
        *,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start one instance of a service that is in the mesh by itself, with no proxy."""
        self._app_ports[name] = self.free_port()
        words = ["serve", application, "--service", service, "--namespace", NAMESPACE, "--health", "http:/healthz"]
        words += ["--host", "127.0.0.1", "--port", f"http:{self._app_ports[name]}"]
        for key, value in (labels or {}).items():
            words += ["--label", f"{key}={value}"]
        self.start(name, words, {"REPLICA": name, **(env or {})})

    def start(
        self,
        name: str,
        words: Sequence[str],
        extra: Mapping[str, str] | None = None,
        *,
        machine: Machine | None = None,
    ) -> None:
        """Start ``masche WORDS`` under a name, here or on a simulated machine, with its log in the folder."""
        self._running[name] = self._started(name, words, extra or {}, machine)
        self._afterwards.note(self._running[name].pid)

    def start_agent(self, machine: Machine) -> None:
        """Start the agent of a simulated machine, which is ended with its machine, after all that runs there."""
        words = ["agent", "--zone", machine.zone, "--address", machine.address]
        self._agents.append(self._started(f"agent of {machine.zone}", words, {}, machine))

    def _started(
        self, name: str, words: Sequence[str], extra: Mapping[str, str], machine: Machine | None
    ) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "masche", *words]
        with (self.folder / f"{name.replace(' ', '-')}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own program
                machine.words(command) if machine else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment(machine), **extra},
                cwd=SHOP,
                start_new_session=True,
            )

    def pid(self, name: str) -> int:
        """The process that was started under a name."""
        return self._running[name].pid

    def do(self, words: Sequence[str], *, machine: Machine | None = None, said: str = "") -> str:
        """Run ``masche WORDS`` to its end, and return what it printed. Raises StageError when it failed."""
        command = [sys.executable, "-m", "masche", *words]
        done = subprocess.run(  # noqa: S603 - our own program
            machine.words(command) if machine else command,
            env=self.environment(machine),
            input=said,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        if done.returncode:
            raise StageError(f"masche {words[0]}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def environment(self, machine: Machine | None = None) -> dict[str, str]:
        """What every process of the stage, or of one of its machines, is started with."""
        inherited = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        data = machine.data if machine else self.folder
        return {**inherited, "MASCHE_DATA": str(data), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}

    def start_gateway(self) -> None:
        """Start the way in for browsers."""
        listen = f"127.0.0.1:{self.gateway_port}"
        self.start("gateway", ["gateway", "--namespace", NAMESPACE, "--gateway", "edge", "--listen", listen])

    def kill(self, name: str) -> None:
        """End a process of ours without a word, as a crash would."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def kill_application(self, name: str) -> None:
        """Kill -9 the application behind a sidecar: the child of its runner."""
        runner = self._running.pop(name)
        for child in children(runner.pid):
            if os.getsid(child) != child:  # the runner may have started the agent, which leads a session of its own
                os.kill(child, signal.SIGKILL)
        _ended(runner)

    def stop(self, name: str, *, within: float = 30.0) -> None:
        """End a process of ours in order."""
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self, *, keep_logs: bool = False) -> None:
        """End everything: callers first, then the services, the agent and the control plane; remove the folder."""
        plane = self._running.pop("control plane", None)
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            _ended(process)
        self._end_agent()
        self._until_closed.close()
        for process in self._agents:
            _ended(process)
        if plane is not None:
            plane.terminate()
            _ended(plane)
        if not keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._afterwards.over()

    def _end_agent(self) -> None:
        from masche.agent.folders import Folders
        from masche.agent.stopping import stop_agent

        stop_agent(Folders(self.folder), within=20.0)

    # -- watching ---------------------------------------------------------------------------------------------------

    def until(
        self, happened: Callable[[], bool], otherwise: str, *, within: float = PATIENCE, watch: str = ""
    ) -> float:
        """Wait until something is true; return the seconds it took. Raises StageError."""
        began = time.monotonic()
        while not happened():
            process = self._running.get(watch)
            if process is not None and process.poll() is not None:
                raise StageError(f"{watch} ended with code {process.returncode}: {self.last_words(watch)}")
            if time.monotonic() - began > within:
                raise StageError(f"{otherwise} within {within:g} s; logs are in {self.folder}")
            time.sleep(0.05)
        return time.monotonic() - began

    def last_words(self, name: str) -> str:
        """The end of a process's log."""
        path = self.folder / f"{name.replace(' ', '-')}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return " / ".join(lines[-4:]) or "it said nothing"

    def status(self) -> MeshStatus:
        """Every proxy as the control plane sees it."""
        return self.client.status()

    def ready(self, service: str) -> list[ProxyStatus]:
        """The healthy, connected instances of a service."""
        return [
            each
            for each in self.status().proxies
            if each.service == f"{NAMESPACE}/{service}" and each.state == "READY" and each.is_connected
        ]

    def instance(self, name: str) -> ProxyStatus:
        """The instance whose application listens where ``name`` does. Raises StageError."""
        wanted = self._app_ports[name]
        for each in self.status().proxies:
            if any(port.app_port == wanted for port in each.ports):
                return each
        raise StageError(f"{name} is not registered")

    def apply(self, text: str, *, within: float = 20.0) -> Applied:
        """Apply YAML and wait until it is live everywhere. Raises StageError."""
        applied = self.client.apply([Document(file="demo.yaml", text=text)])
        self.until(
            lambda: self.client.progress(applied.revision).state is RolloutState.LIVE,
            f"revision {applied.revision} is not live",
            within=within,
        )
        return applied

    def fault(self, name: str, **fault: float) -> None:
        """Pull a lever of the shop's application directly, beside the mesh."""
        self._ask(f"http://127.0.0.1:{self._app_ports[name]}/fault", json.dumps(fault).encode())

    def buy(self) -> dict[str, Any]:
        """Buy something through the gateway, as a browser would; which instances took part is in the answer."""
        return self._ask(f"http://127.0.0.1:{self.gateway_port}/buy", b'{"item": "needle"}')

    def _ask(self, url: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - http, built here
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            return {"status": error.code, "error": error.read().decode(errors="replace")}
        except OSError as error:
            return {"status": 0, "error": str(error)}

    # -- between zones --------------------------------------------------------------------------------------------

    def build(self, zones: Sequence[str], tap: Tap) -> Machines:
        """Make simulated machines that last until the stage closes; the control plane is to listen for them."""
        prefix = f"md{os.getpid() % 100_000}"
        made = self._until_closed.enter_context(opened(self.folder, zones, prefix=prefix, tap=tap))
        self._listen = made.home
        return made

    def lay(self, zones: Sequence[str]) -> Links:
        """Lay links between zones, which carry until the stage closes."""
        return self._until_closed.enter_context(in_a_thread(Links(zones, block=f"127.{200 + os.getpid() % 50}")))

    # -- the customers --------------------------------------------------------------------------------------------

    def record(self, load: str = "load") -> Path:
        """Where a load writes what it saw."""
        return self.folder / f"{load}.jsonl"

    def mark(self) -> float:
        """Now, as the load counts time."""
        return time.time()

    def calls(self, since: float, until: float | None = None, *, load: str = "load") -> Calls:
        """What the customers saw of calls that ended in whole seconds after ``since``."""
        rows = [row for row in self._rows(load) if row["at"] >= since and (until is None or row["at"] < until)]
        return Calls(
            sent=sum(row["sent"] for row in rows),
            failed=sum(row["failed"] for row in rows),
            latencies=tuple(ms for row in rows for ms in row["ms"]),
            errors=tuple(error for row in rows for error in row["errors"])[:5],
        )

    def watch(self, seconds: float, *, load: str = "load") -> Calls:
        """Let the customers call for a while and say what they saw."""
        began = self.mark()
        end = time.monotonic() + seconds
        self.until(
            lambda: time.monotonic() > end and bool(self.calls(began, load=load).sent),
            "the load stands still",
            watch=load,
        )
        return self.calls(began, load=load)

    def _rows(self, load: str) -> Iterator[dict[str, Any]]:
        if self.record(load).exists():
            for line in self.record(load).read_text().splitlines():
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    # -- ports ----------------------------------------------------------------------------------------------------

    def free_port(self, *, pair: bool = False) -> int:
        """A free port of loopback below the ephemeral range; with ``pair`` the next one is free, too."""
        for port in range(FIRST_PORT + os.getpid() % 4000, LAST_PORT):
            wanted = {port, port + 1} if pair else {port}
            if not wanted & self._ports and all(map(_is_free, wanted)):
                self._ports |= wanted
                return port
        raise StageError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _ended(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def shown_certificate(address: str, port: int) -> bytes:
    """The certificate (DER) that a workload's proxy shows to anybody who starts a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=5) as plain, context.wrap_socket(plain) as encrypted:
        return encrypted.getpeercert(binary_form=True) or b""


def plaintext_answer(address: str, port: int) -> bytes:
    """What a workload's proxy answers to a plaintext request; b"" when it hangs up."""
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            return connection.recv(1024)
    return b""
