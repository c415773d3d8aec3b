"""Three machines for tests: network namespaces on one switch, each with its own agent, joined to one control plane.

``mesh.run(..., data=machine.data, options=ON_THE_NODE)`` starts a workload there. What passes between machines is seen
by a Wire. Invariant: the machines and all that was made for them are gone at the end, whatever happened.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e.conftest import LIVING
from e2e.mesh import NAMESPACE, Mesh
from e2e.waiting import until
from masche.cli.machines import HOME, Machine, Machines, opened

ZONES = ("vienna", "milan", "zurich")
RECORD = re.compile(rb"\x17\x03\x03")
"""How a TLS record of application data begins, of TLS 1.2 and 1.3 alike (RFC 8446, section 5.2)."""


@dataclass(eq=False)
class Wire:
    """Every frame between two machines; the control plane's own machine is none of them."""

    frames: list[bytes] = field(default_factory=list[bytes])
    lines: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def __call__(self, source: str, target: str, frame: bytes) -> None:
        if HOME not in {source, target}:
            self.frames.append(frame)
            self.lines[source, target] += 1

    def carried(self, *words: bytes, but: bytes = b"") -> list[bytes]:
        """Frames in which one of these stood, ``but`` not this, which somebody said on purpose."""
        said = [frame for frame in tuple(self.frames) if any(word in frame for word in words)]
        return [frame for frame in said if but not in frame] if but else said

    def encrypted(self) -> int:
        """How many frames began a record of TLS."""
        return sum(bool(RECORD.search(frame)) for frame in tuple(self.frames))


@dataclass(eq=False)
class Country:
    """All of it."""

    mesh: Mesh
    machines: Machines
    wire: Wire

    def __getitem__(self, zone: str) -> Machine:
        return self.machines[zone]


@contextmanager
def country(
    folder: Path, zones: Sequence[str] = ZONES, *, namespaces: Sequence[str] = (NAMESPACE,)
) -> Generator[Country, None, None]:
    """Make the machines, start a control plane for them, and let them join to run workloads of these namespaces."""
    wire, agents = Wire(), []
    with opened(folder, zones, prefix=f"n5m{os.getpid() % 10_000}", tap=wire) as machines:
        mesh = Mesh(folder / "m", ("--listen", machines.home))
        mesh.folder.mkdir()
        LIVING.append(mesh)
        try:
            mesh.start_plane()
            for machine in machines:
                agents.append(_joined(mesh, machine, namespaces))
            yield Country(mesh, machines, wire)
        finally:
            try:
                mesh.close()
            finally:
                LIVING.remove(mesh)
                for each in agents:
                    each.terminate()
                    each.wait(40)


def _joined(mesh: Mesh, machine: Machine, namespaces: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Let a machine join, by one command, from its own network; its agent runs there from then on."""
    given = mesh.masche("token", "create", *(word for each in namespaces for word in ("-n", each)))
    assert given.returncode == 0, given.stderr
    environment = {**os.environ, "MASCHE_DATA": str(machine.data), "NO_COLOR": "1"}
    command = machine.words([sys.executable, "-m", "masche"])
    words = ["join", "--machine", machine.zone, "--zone", machine.zone]
    joined = subprocess.run(
        [*command, *words], env=environment, input=given.stdout, text=True, capture_output=True, check=False
    )
    assert joined.returncode == 0, joined.stderr
    with (mesh.folder / f"agent-of-{machine.zone}.log").open("ab") as log:
        agent = subprocess.Popen(
            [*command, "agent", "--zone", machine.zone, "--address", machine.address],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    until(lambda: (found := mesh.agent(machine.data)) and found.is_connected, f"the agent of {machine.zone} is there")
    return agent
