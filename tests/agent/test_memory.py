import subprocess
import sys
from pathlib import Path

from agent.plane import reference
from agent.world import World, free_port, until

FORBIDDEN = (
    "pydantic",
    "click",
    "rich",
    "starlette",
    "uvicorn",
    "yaml",
    "masche.registry",
    "masche.compiler",
    "masche.api",
)


def test_the_agent_loads_neither_compiler_nor_registry_nor_what_they_need() -> None:
    script = "import sys, masche.agent.process; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.split()
    assert [one for one in loaded if one.startswith(FORBIDDEN)] == []
    own = {one for one in loaded if one.startswith("masche.") and one.count(".") == 1}
    assert own <= {
        *("masche.agent", "masche.link", "masche.identity", "masche.rpc", "masche.telemetry", "masche.wire"),
        *("masche.model", "masche.version"),
    }


def test_a_runner_loads_no_grpc() -> None:
    script = "import sys, masche.agent.runner; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.split()
    assert [one for one in loaded if one.startswith((*FORBIDDEN, "grpc", "google", "cryptography"))] == []


async def test_an_agent_with_seats_stays_below_forty_megabytes(machine: World) -> None:
    machine.plane.services = tuple(reference(f"service-{index}") for index in range(40))
    for index in range(3):
        await machine.run(f"web-{index}", port=free_port())
    for index in range(3):
        await machine.ready(f"web-{index}")
    pid = (await machine.status()).pid
    await until(lambda: _pss(pid) <= 40 * 1024, within=20, what="the agent's memory")


def _pss(pid: int) -> int:
    with Path(f"/proc/{pid}/smaps_rollup").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
