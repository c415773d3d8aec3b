"""A whole mesh of real processes: control plane, agents, runners, Envoys, applications; and its end without remains.

Everything lives under one folder, by which whatever is left over is found. Invariant: ``close`` ends every process, and
says so as an error if one of them did not end in order by itself.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from e2e import remains
from e2e.calling import Admin, Answer, call, status_of
from e2e.waiting import until
from masche.agent.capture.sockets import in_namespace
from masche.agent.folders import Folders
from masche.agent.local import AgentStatus, SeatStatus
from masche.agent.stopping import ask_status, stop_agent
from masche.api.client import Client, DeniedError, RefusalError, UnreachableError
from masche.api.messages import Applied, Document, MeshStatus, ProxyStatus, RolloutState
from masche.model.refs import Kind, Ref
from taken_ports import APPLICATIONS

SERVERS = Path(__file__).with_name("servers")
APP = (sys.executable, str(SERVERS / "app.py"))
NODE_APP = ("node", str(SERVERS / "app.mjs"))
NAMESPACE = "shop"
ON_THE_NODE = ("--placement", "node")

T = TypeVar("T")


def free_port(*, span: int = 1) -> int:
    """The first of ``span`` free ports in a row that no other test gets."""
    return APPLICATIONS.free(span=span)


@dataclass(eq=False)
class Instance:
    """One ``masche run``: the runner, where its application listens, and what the application was told."""

    mesh: "Mesh"
    name: str
    service: str
    namespace: str
    data: Path
    process: "subprocess.Popen[bytes]"
    app_port: int
    log: Path

    @property
    def text(self) -> str:
        """What it and its application said."""
        return self.log.read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """The application's environment, as the application saw it."""
        return json.loads(
            until(lambda: self._sheet.exists() and self._sheet.read_text(), f"{self.name} wrote its sheet")
        )

    @property
    def _sheet(self) -> Path:
        return self.mesh.folder / f"{self.name}.env"

    @property
    def bytes_file(self) -> Path:
        """Everything that arrived at the application, when it was started with ``is_recorded``."""
        return self.mesh.folder / f"{self.name}.bytes"

    @property
    def received(self) -> bytes:
        """Every byte that reached the application."""
        return self.bytes_file.read_bytes() if self.bytes_file.exists() else b""

    def url(self, service: str, path: str = "") -> str:
        """Where this instance reaches a service."""
        return self.environment[f"{service.upper().replace('-', '_').replace('.', '_')}_URL"] + path

    def call(self, service: str, path: str = "/", **options: Any) -> Answer:
        """Call a service as this instance."""
        url = self.url(service, path)
        return self.within(lambda: call(url, **options))

    def reaches(self, service: str, path: str = "/", **options: Any) -> bool:
        """Whether a call to a service is answered with 200."""
        url = self.url(service, path)
        return self.within(lambda: status_of(url, **options)) == 200

    @property
    def netns(self) -> str:
        """The file of the network namespace in which its application is; "" for ours."""
        return self.seat.namespace_path

    def within(self, function: Callable[[], T]) -> T:
        """Do something where its application is."""
        return in_namespace(self.netns, function)

    # -- its seat -----------------------------------------------------------------------------------------------------

    @property
    def seat(self) -> SeatStatus:
        """What its agent says of it."""
        found = self.find_seat()
        assert found, f"{self.name} has no seat"
        return found

    def find_seat(self) -> SeatStatus | None:
        """The same, or None."""
        status = self.mesh.agent(self.data)
        for each in status.seats if status else ():
            if f"inbound/{self.app_port}" in each.ports:
                return each
            if not self.app_port and each.workload.startswith(f"{self.namespace}/{self.service}-"):
                return each
        return None

    @property
    def mesh_port(self) -> int:
        """Where its proxy accepts mutual TLS."""
        return self.seat.ports[f"inbound/{self.app_port}"]

    @property
    def seat_folder(self) -> Path:
        """Where its agent keeps its things."""
        return Folders(self.data).seat(self.seat.workload)

    @property
    def admin(self) -> Admin:
        """Its Envoy's admin interface."""
        own = self.seat_folder / "bootstrap.json"
        bootstrap = json.loads((own if own.exists() else Folders(self.data).node / "bootstrap.json").read_bytes())
        return Admin(Path(bootstrap["admin"]["address"]["pipe"]["path"]))

    def status(self) -> ProxyStatus | None:
        """What the control plane says of it."""
        return next((each for each in self.mesh.status().proxies if each.workload == self.seat.workload), None)

    # -- its end ------------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Ask it to leave."""
        self.process.terminate()

    def wait(self, within: float = 40.0) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(within)


@dataclass(eq=False)
class Mesh:
    """Everything that runs under one folder. ``options`` go to every ``masche up``."""

    folder: Path
    options: tuple[str, ...] = ()
    instances: list[Instance] = field(default_factory=list[Instance])
    plane: "subprocess.Popen[bytes] | None" = None
    _ports: dict[str, int] = field(default_factory=dict[str, int])
    _machines: set[Path] = field(default_factory=set[Path])
    _others: "list[subprocess.Popen[bytes]]" = field(default_factory=list["subprocess.Popen[bytes]"])

    @property
    def data(self) -> Path:
        """The data folder of the control plane and of its own machine."""
        return self.folder / "d"

    @property
    def client(self) -> Client:
        """The API."""
        return Client.of(self.data)

    # -- the control plane --------------------------------------------------------------------------------------------

    def start_plane(self) -> None:
        """Start it, or start it again on the same ports, and wait until it answers."""
        if not self._ports:
            first = free_port(span=4)
            self._ports = {"--xds-port": first, "--api-port": first + 2, "--metrics-port": first + 3}
        words = ["up", *self.options]
        for option, port in self._ports.items():
            words += [option, str(port)]
        self.plane = self._start("plane", words, {"MASCHE_DEBUG": "1"}, data=self.data)
        until(self._is_answered, "the control plane answers")

    def _is_answered(self) -> bool:
        assert self.plane
        assert self.plane.poll() is None, f"the control plane ended:\n{self.log('plane')}"
        try:
            return not self.status().plane.waiting_for
        except (UnreachableError, DeniedError, RefusalError, OSError):
            return False

    def kill_plane(self) -> None:
        """As a crash would."""
        assert self.plane
        self.plane.kill()
        self.plane.wait()
        self.plane = None

    def signal_plane(self, number: int) -> None:
        """Send it a signal."""
        assert self.plane
        self.plane.send_signal(number)

    def status(self) -> MeshStatus:
        """What the control plane says."""
        return self.client.status()

    def ready(self, service: str, namespace: str = NAMESPACE) -> list[ProxyStatus]:
        """Instances of a service that the control plane knows as ready and connected."""
        wanted = f"{namespace}/{service}"
        found = self.status().proxies
        return [one for one in found if one.service == wanted and one.state == "READY" and one.is_connected]

    def is_in_sync(self) -> bool:
        """Whether every proxy is connected and holds what it should."""
        proxies = self.status().proxies
        return bool(proxies) and all(one.is_connected and one.is_in_sync for one in proxies)

    # -- configuration ------------------------------------------------------------------------------------------------

    def apply(self, text: str, *, within: float = 30.0) -> Applied:
        """Apply YAML and wait until it is live everywhere."""
        applied = self.client.apply([Document(file="test.yaml", text=text)])
        self.await_live(applied.revision, within=within)
        return applied

    def delete(self, kind: Kind, *names: str, namespace: str = NAMESPACE) -> None:
        """Delete and wait until that is live everywhere."""
        refs = [Ref(kind, namespace, name) for name in names]
        self.await_live(self.client.delete(refs).revision)

    def await_live(self, revision: int, *, within: float = 30.0) -> None:
        """Wait until a revision is live on every connected proxy."""

        def is_live() -> bool:
            found = self.client.progress(revision)
            assert found.state is not RolloutState.REJECTED, f"rejected: {found.rejected}"
            return found.state is RolloutState.LIVE

        until(is_live, f"revision {revision} is live", within=within)

    # -- workloads ----------------------------------------------------------------------------------------------------

    def run(
        self,
        service: str,
        command: Sequence[str] = APP,
        *,
        name: str = "",
        namespace: str = NAMESPACE,
        has_port: bool = True,
        port: int = 0,
        protocol: str = "",
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        is_recorded: bool = False,
        data: Path | None = None,
    ) -> Instance:
        """Start one instance behind its own sidecar; it need not be ready yet."""
        name = name or f"{service}-{1 + sum(one.service == service for one in self.instances)}"
        data, port = data or self.data, (port or free_port()) if has_port else 0
        words = ["run", "--service", service, "--namespace", namespace, *options]
        words += ["--port", f"{port}/{protocol}" if protocol else str(port)] if port else []
        extra = {"NAME": name, "SHEET": str(self.folder / f"{name}.env"), **(env or {})}
        extra |= {"BYTES": str(self.folder / f"{name}.bytes")} if is_recorded else {}
        process = self._start(name, [*words, "--", *command], extra, data=data)
        log = self._log_path(name)
        instance = Instance(self, name, service, namespace, data, process, port, log)
        self.instances.append(instance)
        self._machines.add(data)
        return instance

    def await_ready(self, *instances: Instance) -> None:
        """Wait until the control plane and their agents say that they are ready."""
        for each in instances:
            until(lambda each=each: self._is_ready(each), f"{each.name} is ready")

    def _is_ready(self, instance: Instance) -> bool:
        code = instance.process.poll()
        assert code is None, f"{instance.name} ended with {code}:\n{instance.text}"
        seat = instance.find_seat()
        if not seat or seat.phase != "READY":
            return False
        found = instance.status()
        return bool(found and found.state == "READY" and found.is_connected and found.is_in_sync)

    def gateway(self, name: str, listen: str, namespace: str = NAMESPACE) -> "subprocess.Popen[bytes]":
        """Start a gateway."""
        self._machines.add(self.data)
        words = ["gateway", "--namespace", namespace, "--gateway", name, "--listen", listen]
        process = self._start(f"gateway-{name}", words, data=self.data)
        self._others.append(process)
        return process

    def east_west(self, name: str, *options: str, data: Path | None = None) -> "subprocess.Popen[bytes]":
        """Start a gateway between zones."""
        self._machines.add(data or self.data)
        process = self._start(name, ["gateway", "--east-west", *options], data=data or self.data)
        self._others.append(process)
        return process

    def agent(self, data: Path | None = None) -> AgentStatus | None:
        """What the agent of a machine says of itself."""
        return ask_status(Folders(data or self.data))

    # -- commands -----------------------------------------------------------------------------------------------------

    def masche(
        self,
        *words: str,
        data: Path | None = None,
        stdin: str = "",
        within: float = 60.0,
        env: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end, ``under`` another that starts it."""
        return subprocess.run(
            [*under, sys.executable, "-m", "masche", *words],
            env={**self._environment(data or self.data), **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def _environment(self, data: Path) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        return {**inherited, "MASCHE_DATA": str(data), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}

    def _start(
        self, name: str, words: Sequence[str], extra: Mapping[str, str] | None = None, *, data: Path
    ) -> "subprocess.Popen[bytes]":
        with self._log_path(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "masche", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment(data), **(extra or {})},
                cwd=self.folder,
                start_new_session=True,
                umask=0,  # whatever is private must be so by itself
            )

    def _log_path(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        """What a process said so far."""
        path = self._log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self) -> dict[str, str]:
        """Every log, by its path below the folder."""
        return {
            str(path.relative_to(self.folder)): path.read_text(errors="replace") for path in self.folder.rglob("*.log")
        }

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything in order; then whatever is left over is ended by pid, and is an error."""
        errors = [*self._end_workloads(), *self._end_agents(), *self._end_plane()]
        left = remains.processes(self.folder)
        remains.end(list(left))
        folders = [self.folder, *(Folders(data).sockets for data in self._machines)]
        errors += [f"left behind: {pid} {text}" for pid, text in left.items()]
        errors += [f"left behind: socket {path}" for path in remains.unix_sockets(*folders)]
        errors += [f"left behind: port {port}" for port in remains.listening(set(self._ports.values()))]
        assert not errors, "\n".join(errors)

    def _end_workloads(self) -> list[str]:
        processes = {f"{one.name}": one.process for one in self.instances}
        processes |= {f"gateway {index}": one for index, one in enumerate(self._others)}
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        return [error for name, process in processes.items() for error in _ended(name, process)]

    def _end_agents(self) -> list[str]:
        return [f"the agent of {data} did not end" for data in self._machines if not stop_agent(Folders(data))]

    def _end_plane(self) -> list[str]:
        if self.plane is None:
            return []
        self.plane.send_signal(signal.SIGCONT)
        self.plane.terminate()
        return _ended("the control plane", self.plane)


def _ended(name: str, process: "subprocess.Popen[bytes]") -> list[str]:
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return [f"{name} did not end within 40 s"]
    return []


SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {app}{labels}}}
  ports: [{{name: http, port: 80, targetPort: {target}, appProtocol: http}}]
---
"""


def service(name: str, *, app: str = "", namespace: str = NAMESPACE, labels: str = "", target: str = "http") -> str:
    """YAML of a Service."""
    return SERVICE.format(
        name=name, app=app or name, namespace=namespace, labels=f", {labels}" if labels else "", target=target
    )
