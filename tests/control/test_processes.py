"""One machine has several streams: its agent's, and one for each process with the library. None speaks for another."""

import asyncio

import pytest

from control.plant import Agent, Plant, eventually, sidecar
from masche.control import agents as module
from masche.link.messages import Accepted, Drained, EdgeReport, ProxyGone, ProxyReport, Refused, Report, Synced
from masche.link.refusal import RefusedError
from masche.model.ports import Delete
from masche.model.refs import Kind, Name, PortRef, Ref
from masche.model.resources.core import Service

SHOP = "shop"


def workloads(mesh: Plant) -> set[str]:
    return {name.name for name in mesh.parts.world.newest.workloads}


async def test_processes_of_one_machine_are_connected_side_by_side(mesh: Plant) -> None:
    async with mesh.agent() as agent, mesh.agent(process="a") as one, mesh.agent(process="b") as other:
        for each, name in ((agent, "web"), (one, "orders"), (other, "payment")):
            await each.enrols(sidecar(name))
        assert not any(each.is_over for each in (agent, one, other))
        assert workloads(mesh) == {"web", "orders", "payment"}
        assert mesh.parts.agents.machines["m1"].process == ""


async def test_a_new_stream_of_a_process_takes_the_place_of_its_old_one(mesh: Plant) -> None:
    async with mesh.agent(process="a") as old:
        await old.enrols(sidecar("orders"))
        async with mesh.agent(process="a") as new:
            await old.until(lambda: old.is_over)
            await new.enrols(sidecar("orders"))


async def test_a_process_that_said_all_forgets_only_its_own(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one:
        await one.enrols(sidecar("orders"), sidecar("stock"))
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        agent.say(Synced(), sidecar("web", phase="DRAINING"))
        await agent.hears(Drained)
        assert workloads(mesh) == {"web", "orders", "stock"}
        async with mesh.agent(process="a") as one:
            await one.enrols(sidecar("orders"))
            one.say(Synced())
            await eventually(lambda: workloads(mesh) == {"web", "orders"})


async def test_a_name_that_a_living_process_has_is_refused_as_taken_and_free_once_it_ended(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one, mesh.agent(process="b") as other:
        await one.enrols(sidecar("orders"))
        other.say(sidecar("orders"))
        refused = await other.hears(Refused)
        assert refused.is_taken
        assert "another process of this machine" in refused.why
    async with mesh.agent(process="c") as third:
        third.say(sidecar("orders"))
        await third.hears(Accepted)


async def test_a_process_cannot_take_out_what_another_of_its_machine_registered(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one, mesh.agent(process="b") as other:
        await one.enrols(sidecar("orders"))
        other.say(ProxyGone(proxy="orders-proxy"))
        await other.enrols(sidecar("stock"))
        assert workloads(mesh) == {"orders", "stock"}


async def test_a_process_that_ended_without_a_word_is_known_as_long_as_its_workload_is(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one:
        await one.enrols(sidecar("orders"))
    assert mesh.parts.world.registrations.get("orders-proxy") is not None
    await eventually(lambda: mesh.happened("process-lost"))
    await mesh.store.commit([Delete(ref=Ref(Kind.WORKLOAD, SHOP, "orders"))])
    await eventually(lambda: mesh.parts.world.registrations.get("orders-proxy") is None)


async def test_an_orderly_end_of_a_process_is_no_event_to_worry_about(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one:
        await one.enrols(sidecar("orders"))
        one.say(ProxyGone(proxy="orders-proxy"))
        await eventually(lambda: not workloads(mesh))
    assert mesh.happened("process-lost") == []
    assert mesh.happened("machine-lost") == []


def counted(agent: Agent, epoch: str, sequence: int) -> Report:
    edge = EdgeReport(
        direction="outbound", workload=Name(SHOP, "web"), service=PortRef(SHOP, "web", 80), codes={200: 1}
    )
    proxy = ProxyReport(proxy="web-proxy", edges=(edge,))
    return Report(machine=agent.machine, epoch=epoch, sequence=sequence, proxies=(proxy,))


async def test_each_process_counts_its_own_reports_once(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one, mesh.agent(process="b") as other:
        await one.enrols(sidecar("web", wish="web"))
        assert isinstance(mesh.parts.world.newest.services[Name(SHOP, "web")], Service)
        for agent, epoch, sequence in ((one, "a", 1), (other, "b", 1), (one, "a", 1), (one, "a", 2), (other, "b", 1)):
            reply = await mesh.parts.agents.report(agent.peer, counted(agent, epoch, sequence))
            assert reply.sequence == sequence
        [sample] = mesh.parts.measures.totals().edges.values()
        assert sample.requests == 3


async def test_what_one_process_reports_too_often_costs_no_other_its_turn(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one, mesh.agent(process="b") as other:
        await one.enrols(sidecar("web", wish="web"))
        await other.enrols(sidecar("stock"))
        with pytest.raises(RefusedError, match="times a second"):
            await asyncio.gather(*(mesh.parts.agents.report(one.peer, counted(one, "a", each)) for each in range(1000)))
        await mesh.parts.agents.report(other.peer, counted(other, "b", 1))


async def test_a_machine_has_only_so_many_processes(mesh: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROCESSES_PER_MACHINE", 1)
    async with mesh.agent(process="a") as one, mesh.agent(process="b") as other:
        refused = await other.hears(Refused)
        assert "streams open already" in refused.why
        await one.enrols(sidecar("orders"))


async def test_a_machine_that_is_revoked_loses_all_its_processes(mesh: Plant) -> None:
    async with mesh.agent() as agent, mesh.agent(process="a") as one:
        await agent.enrols(sidecar("web"))
        await one.enrols(sidecar("orders"))
        await mesh.parts.agents.expel("m1")
        async with asyncio.timeout(5):
            await agent.until(lambda: agent.is_over)
            await one.until(lambda: one.is_over)
        await eventually(lambda: not workloads(mesh))


async def test_of_processes_that_ask_for_one_name_at_once_one_gets_it(mesh: Plant) -> None:
    async with mesh.agent(process="a") as one, mesh.agent(process="b") as other, mesh.agent(process="c") as third:
        everybody = (one, other, third)
        for each in everybody:
            each.say(sidecar("orders"))
        answers = [await first_of(each, Accepted, Refused) for each in everybody]
        assert sorted(type(answer).__name__ for answer in answers) == ["Accepted", "Refused", "Refused"]
        assert all(answer.is_taken for answer in answers if isinstance(answer, Refused))


async def first_of(agent: Agent, *kinds: type) -> object:
    await agent.until(lambda: any(isinstance(each, kinds) for each in agent.heard))
    return next(each for each in agent.heard if isinstance(each, kinds))
