"""``masche agent --upgrade``, where there is nothing to upgrade; with a node it is held by tests/e2e."""

import asyncio
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from agent.world import World, free_port
from masche.agent import stopping
from masche.agent.folders import Folders
from masche.agent.local import Upgraded
from masche.cli.agent import agent


async def test_an_agent_whose_envoys_serve_one_workload_each_has_none_to_replace(machine: World) -> None:
    await machine.run("web", port=free_port())
    before = (await machine.ready("web")).envoy_pid
    said = await asyncio.to_thread(stopping.upgrade, machine.folders)
    assert said == Upgraded(pid=0)
    assert (await machine.ready("web")).envoy_pid == before


def test_without_an_agent_the_command_says_so(short_path: Path) -> None:
    assert stopping.upgrade(Folders(short_path)) is None
    found = CliRunner().invoke(agent, ["--data", str(short_path), "--upgrade"])
    assert found.exit_code == 1
    assert "no agent" in found.output


def test_an_agent_that_answers_no_names_loads_no_library_of_dns() -> None:
    script = "import sys, masche.agent.process; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.split()
    assert [one for one in loaded if one.split(".")[0] in {"dns", "idna"}] == []
