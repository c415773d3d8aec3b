"""What agents left is taken away as soon as nobody needs it, and not from under anybody."""

import asyncio
import sys

from agent.world import World, free_port, until
from masche.agent.cleanup import cleanup
from masche.agent.launch import ALREADY_RUNNING


async def cleaned(machine: World) -> tuple[int, str]:
    said: list[str] = []
    code = await asyncio.to_thread(cleanup, machine.data, said.append)
    return code, "\n".join(said)


async def test_right_after_the_last_command_its_agent_is_in_nobodys_way(machine: World) -> None:
    job = await machine.run("job", "true")
    assert await job.process.wait() == 0
    agent = await until(machine.status, what="an agent that waits for others")
    code, said = await cleaned(machine)
    assert code == 0, said
    assert f"ended the agent that nobody needed (pid {agent.pid})" in said
    assert not machine.folders.agent.exists()


async def test_an_agent_that_serves_somebody_stays(machine: World) -> None:
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    before = await machine.status()
    code, said = await cleaned(machine)
    assert (code, f"kill {before.pid}" in said) == (ALREADY_RUNNING, True)
    assert (await machine.ready("orders")).envoy_pid == before.seats[0].envoy_pid


async def test_an_agent_that_somebody_started_by_hand_stays_although_it_serves_nobody(machine: World) -> None:
    machine.folders.prepare()
    words = ("-m", "masche.agent.process", "--data", str(machine.data))
    agent = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.DEVNULL)
    await until(machine.status, what="an agent")
    code, said = await cleaned(machine)
    assert (code, f"kill {agent.pid}" in said) == (ALREADY_RUNNING, True)
    agent.terminate()
    assert await asyncio.wait_for(agent.wait(), 20) == 0
