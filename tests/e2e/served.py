"""Processes that serve by the library, in a Mesh of real processes."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.mesh import NAMESPACE, Mesh, free_port
from e2e.waiting import until
from masche.api.messages import ProxyStatus

SERVERS = Path(__file__).with_name("servers")


@dataclass(eq=False)
class Served:
    """One process with the library that takes calls on ``port``."""

    mesh: Mesh
    name: str
    service: str
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def text(self) -> str:
        """What it said."""
        return self.mesh.log(self.name)

    def status(self) -> ProxyStatus | None:
        """What the control plane says of it."""
        proxies = self.mesh.status().proxies
        return next((each for each in proxies if any(port.app_port == self.port for port in each.ports)), None)

    def is_ready(self) -> bool:
        """Whether it is known as ready, and holds what it should."""
        assert self.process.poll() is None, f"{self.name} ended:\n{self.text}"
        found = self.status()
        return bool(found and found.state == "READY" and found.is_connected and found.is_in_sync)

    def await_ready(self) -> "Served":
        """Wait for that."""
        until(self.is_ready, f"{self.name} is ready: {self.text}")
        return self

    def end(self) -> int:
        """Ask it to leave, and return its exit code."""
        self.process.terminate()
        return self.process.wait(30)


def serve(
    mesh: Mesh,
    service: str,
    *options: str,
    application: str = "served:app",
    name: str = "",
    env: Mapping[str, str] | None = None,
) -> Served:
    """``masche serve`` of an application of ours."""
    port = free_port()
    words = ["-m", "masche", "serve", application, "--service", service, "-n", NAMESPACE, "--port", str(port), *options]
    return start(mesh, service, [sys.executable, *words], port=port, name=name, env=env)


def start(
    mesh: Mesh,
    service: str,
    command: Sequence[str],
    *,
    port: int,
    name: str = "",
    env: Mapping[str, str] | None = None,
) -> Served:
    """Any program that serves by the library; the options of the library are in its environment."""
    name = name or f"{service}-{port}"
    more = {
        "NAME": name,
        "PORT": str(port),
        "MASCHE_SERVICE": service,
        "MASCHE_NAMESPACE": NAMESPACE,
        "PYTHONPATH": str(SERVERS),
    }
    with (mesh.folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**mesh._environment(mesh.data), **more, **(env or {})},
            cwd=SERVERS,
            start_new_session=True,
        )
    mesh._others.append(process)
    return Served(mesh, name, service, port, process)
