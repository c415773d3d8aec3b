import asyncio
import json
import signal
import sys

from agent.plane import reference
from agent.world import World, free_port, until
from masche.agent.processes import identify
from masche.link.messages import Heartbeat, ProxyState

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


async def test_a_command_finds_its_mesh_and_calls_a_service_over_mutual_tls(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    caller = "import os, urllib.request as r; print(r.urlopen(os.environ['ORDERS_URL'], timeout=5).read().decode())"
    job = await machine.run("job", sys.executable, "-c", caller)
    out = await job.process.stdout.read()
    assert await job.process.wait() == 0, job.text
    assert out.startswith(b"hello from ")


async def test_a_command_gets_the_variables_of_its_mesh_and_keeps_its_own(machine: World) -> None:
    machine.plane.services = (reference("orders"), reference("pay-ments", "bank"))
    port = free_port()
    show = await machine.run("web", sys.executable, "-c", SHOW, port=port, env={"NO_PROXY": "mine.example", "OWN": "1"})
    found = json.loads(await show.process.stdout.read())
    assert found["ORDERS_URL"].startswith("http://127.0.0.1:")
    assert found["ORDERS_ADDR"] == found["ORDERS_URL"].removeprefix("http://")
    assert "PAY_MENTS_BANK_URL" in found
    assert found["HTTP_PROXY"] == found["http_proxy"]
    assert found["NO_PROXY"] == found["no_proxy"] == "mine.example,localhost,127.0.0.1,::1"
    assert (found["HOST"], found["PORT"], found["OWN"]) == ("127.0.0.1", str(port), "1")


async def test_the_exit_code_is_the_commands(machine: World) -> None:
    commands = {
        "seven": ("sh", "-c", "exit 7"),
        "killed": ("sh", "-c", "kill -KILL $$"),
        "missing": ("/does/not/exist",),
        "refused": ("/etc/passwd",),
    }
    runners = {name: await machine.run(name, *command) for name, command in commands.items()}
    codes = {name: await runner.process.wait() for name, runner in runners.items()}
    assert codes == {"seven": 7, "killed": 137, "missing": 127, "refused": 126}


async def test_only_who_is_called_is_told_that_its_label_is_not_what_its_service_selects_by(machine: World) -> None:
    given = {"labels": {"app": "other"}}
    service = await machine.run("orders", "true", port=free_port(), **given)
    job = await machine.run("job", "true", **given)
    assert [await service.process.wait(), await job.process.wait()] == [0, 0]
    await until(lambda: "its label is app=other" in service.text, what="told")
    assert "its label is" not in job.text


async def test_a_refused_workload_is_told_why_and_never_starts_its_command(machine: World) -> None:
    machine.plane.refusals["orders"] = "this machine may not run orders"
    runner = await machine.run("orders", port=free_port())
    assert await runner.process.wait() == 125
    await until(lambda: "fix: ask for it" in runner.text)
    assert "this machine may not run orders" in runner.text


async def test_a_signal_reaches_a_job_unchanged(machine: World) -> None:
    script = """if True:
        import signal, sys, time
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(9))
        print('up', flush=True)
        time.sleep(60)
    """
    runner = await machine.run("job", sys.executable, "-c", script)
    assert await runner.process.stdout.readline() == b"up\n"
    runner.process.send_signal(signal.SIGUSR1)
    assert await asyncio.wait_for(runner.process.wait(), 10) == 9


async def test_leaving_is_out_of_traffic_then_the_command_then_the_proxy(machine: World) -> None:
    runner = await machine.run("orders", port=free_port())
    seat = await machine.ready("orders")
    await until(lambda: machine.plane.phase("orders") == "READY", what="the control plane told of it")
    runner.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(runner.process.wait(), 15) == 143
    said = [type(one).__name__ for one in machine.plane.history if not isinstance(one, Heartbeat)]
    assert said[-1] == "ProxyGone"
    last = [one for one in machine.plane.history if isinstance(one, ProxyState)][-1]
    assert last.occupants[0].state.phase == "DRAINING"
    assert machine.plane.states == {}
    assert identify(seat.envoy_pid) is None


async def test_a_command_that_ignores_its_end_is_killed_after_the_grace(machine: World) -> None:
    script = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    runner = await machine.run("orders", sys.executable, "-c", script, port=free_port(), grace=0.3)
    assert await runner.process.stdout.readline() == b"up\n"
    runner.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(runner.process.wait(), 15) == 137


async def test_what_a_service_leaves_behind_when_it_ends_is_ended_too(machine: World) -> None:
    script = "sh -c 'trap \"\" TERM; echo $$; exec sleep 60' & sleep 60 & echo $!; wait"
    runner = await machine.run("orders", "sh", "-c", script, port=free_port(), grace=0.3)
    left = [int(await runner.process.stdout.readline()) for _ in range(2)]
    runner.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(runner.process.wait(), 15) == 143
    assert [identify(pid) for pid in left] == [None, None]


async def test_another_envoy_than_the_agents_is_refused_in_words(machine: World) -> None:
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    runner = await machine.run("web", "true", envoy="/does/not/exist")
    assert await runner.process.wait() == 125
    await until(lambda: "not /does/not/exist\n" in runner.text, what="said why")
    assert "fix: leave out --envoy" in runner.text


async def test_the_command_dies_with_a_runner_that_was_killed(machine: World) -> None:
    script = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    runner = await machine.run("orders", sys.executable, "-c", script, port=free_port())
    pid = int(await runner.process.stdout.readline())
    seat = await machine.seat("orders")
    runner.process.kill()
    await until(lambda: identify(pid) is None, what="the command gone")
    await until(lambda: identify(seat.envoy_pid) is None, what="its Envoy gone")
    await until(lambda: machine.plane.states == {}, what="deregistered")


async def test_seven_runners_at_once_start_one_agent(machine: World) -> None:
    runners = [await machine.run(f"service-{index}", "sh", "-c", "echo $PPID") for index in range(7)]
    assert [await runner.process.wait() for runner in runners] == [0] * 7, [one.text for one in runners]
    starts = [line for line in machine.folders.agent_log.read_text().splitlines() if " agent of " in line]
    assert len(starts) == 1
