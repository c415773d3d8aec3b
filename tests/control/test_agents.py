"""What agents say becomes resources, and what they are told in return."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from control.plant import Agent, Plant, eventually, plant, service, sidecar
from masche.control import enrolling as module
from masche.control.sessions import OUTBOX_LIMIT, Session
from masche.identity import keys
from masche.identity.credential import Machines
from masche.identity.join import Grant
from masche.link.messages import (
    Accepted,
    Drained,
    EdgeReport,
    Heartbeat,
    Hello,
    ProxyGone,
    ProxyReport,
    Refused,
    Report,
    Roots,
    Scope,
    SignRequest,
    Synced,
)
from masche.link.refusal import RefusedError
from masche.link.service import Peer
from masche.model.ports import Delete, StoreError
from masche.model.refs import Kind, Name, Ref
from masche.model.resources.workload import WorkloadState
from masche.registry.memory import MemoryStore

WEB = Name("shop", "web")


async def test_an_agent_is_told_the_roots_first(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        told = await agent.hears(Roots)
    assert agent.heard[0] is told
    assert told.roots == mesh.parts.ground.authority.bundle.pem


async def test_a_proxy_that_is_accepted_is_in_the_store_already(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        agent.say(sidecar("web", wish="web"))
        accepted = await agent.hears(Accepted)
        stored = {str(entry.ref) for entry in (await mesh.store.snapshot()).entries}
    assert accepted.created == (WEB,)
    assert stored == {"Workload/shop/web", "Service/shop/web"}


async def test_a_registered_workload_carries_what_its_agent_said(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web", phase="UNHEALTHY", reason="connection refused", zone="north"))
        found = mesh.parts.world.mesh.workloads[WEB]
    assert found.status is not None
    assert (found.status.machine, found.status.proxy, found.status.reason) == ("m1", "web-proxy", "connection refused")
    assert (found.spec.address, found.spec.zone, found.spec.ports[0].mesh_port) == ("127.0.0.1", "north", 21000)
    assert mesh.happened("workload-state") == ["shop/web is UNHEALTHY: connection refused"]


async def test_a_wished_service_is_made_once_and_never_over_one_that_is_there(mesh: Plant) -> None:
    await mesh.write(service("web", 8000))
    async with mesh.agent() as agent:
        agent.say(sidecar("web", wish="web"))
        assert (await agent.hears(Accepted)).created == ()
    assert mesh.parts.world.mesh.services[WEB].spec.ports[0].port == 8000


async def test_a_service_that_a_person_writes_at_the_same_moment_stays(mesh: Plant) -> None:
    world, commit = mesh.parts.world, mesh.store.commit

    async def slowly(edits, *, expect=None):
        mesh.store.commit = commit
        await mesh.apply(service("web", 8000))
        return await commit(edits, expect=expect)

    async with mesh.agent() as agent:
        await agent.hears(Roots)
        mesh.store.commit = slowly
        agent.say(sidecar("web", wish="web"))
        assert (await agent.hears(Accepted)).created == ()
    assert world.mesh.services[WEB].spec.ports[0].port == 8000


async def test_a_workload_of_a_machine_that_is_here_is_refused_to_another(mesh: Plant) -> None:
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(sidecar("web"))
        second.say(sidecar("web", proxy="other"))
        refused = await second.hears(Refused, proxy="other")
    assert "served by machine m1" in refused.why


async def test_a_workload_of_a_machine_that_is_away_may_move(mesh: Plant) -> None:
    async with mesh.agent("m1") as first:
        await first.enrols(sidecar("web"))
    async with mesh.agent("m2") as second:
        await second.enrols(sidecar("web", proxy="other"))
        status = mesh.parts.world.mesh.workloads[WEB].status
    assert status is not None
    assert status.machine == "m2"


async def test_a_machine_may_run_only_what_its_token_gave_it(mesh: Plant) -> None:
    await join(mesh, "m9", Grant(namespaces=("shop",), service_accounts=("web",)))
    async with mesh.agent("m9", local=False) as agent:
        agent.say(sidecar("web"), sidecar("orders", port=22000))
        await agent.hears(Accepted, proxy="web-proxy")
        assert "orders" in (await agent.hears(Refused, proxy="orders-proxy")).why
    assert Name("shop", "orders") not in mesh.parts.world.newest.workloads


async def test_a_machine_that_never_joined_here_may_run_nothing(mesh: Plant) -> None:
    async with mesh.agent("stranger", local=False) as agent:
        agent.say(sidecar("web"))
        assert "not known" in (await agent.hears(Refused)).why


async def test_a_machine_cannot_say_that_it_is_another(mesh: Plant) -> None:
    async with mesh.agent("m9", local=False) as agent:
        agent.say(Hello(machine="m1", agent_version="1"))
        assert "says that it is m1" in (await agent.hears(Refused)).why
        await agent.until(lambda: agent.is_over)


async def test_who_speaks_another_version_of_the_link_is_told_so(mesh: Plant) -> None:
    agent = Agent(mesh, "m1", Peer(machine=None))
    agent.say(Hello(machine="m1", agent_version="9.1", protocol_version=2))
    async with agent:
        refused = await agent.hears(Refused)
        assert "masche 9.1 on machine m1 speaks version 2 of the link" in refused.why
        assert "the same release" in refused.fix
        await agent.until(lambda: agent.is_over)


async def test_the_first_word_is_hello(mesh: Plant) -> None:
    agent = Agent(mesh, "m1", Peer(machine=None))
    agent.say(Heartbeat())
    async with agent:
        assert "Hello" in (await agent.hears(Refused)).why
        await agent.until(lambda: agent.is_over)


async def test_what_cannot_be_a_resource_is_refused_and_the_stream_goes_on(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        agent.say(sidecar("Not a Name", proxy="bad"), sidecar("web"))
        assert (await agent.hears(Refused, proxy="bad")).fix
        await agent.hears(Accepted, proxy="web-proxy")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"labels": {"bad key!": "x"}}, "'bad key!' is no label"),
        ({"address": "host.example"}, "'host.example' is no IP address"),
    ],
)
async def test_an_occupant_is_refused_in_words_that_name_what_was_said(
    mesh: Plant, changed: dict[str, Any], words: str
) -> None:
    state = sidecar("web")
    async with mesh.agent() as agent:
        agent.say(structs.replace(state, occupants=(structs.replace(state.occupants[0], **changed),)))
        assert words in (await agent.hears(Refused, proxy="web-proxy")).why


async def test_a_store_that_fails_refuses_the_proxy_and_keeps_the_agent(tmp_path: Path) -> None:
    store = MemoryStore()
    async with plant(tmp_path, store=store) as mesh, mesh.agent() as agent:
        store.fail(StoreError("the disk is full"))
        agent.say(sidecar("web"))
        assert "disk is full" in (await agent.hears(Refused)).why
        store.fail(None)
        agent.say(sidecar("web"))
        await agent.hears(Accepted)


# -- scopes ---------------------------------------------------------------------------------------------------------


async def test_a_workload_is_told_what_it_may_call_and_again_when_that_changes(mesh: Plant) -> None:
    await mesh.write(service("orders"))
    async with mesh.agent() as agent:
        agent.say(sidecar("web"))
        first = await agent.hears(Scope)
        assert [each.name for each in first.services] == ["orders"]
        await mesh.write(service("stock"))
        await agent.until(lambda: scoped(agent) == ["orders", "stock"])
        count = len(agent.heard)
        await mesh.write(service("orders"))
        assert len(agent.heard) == count, "what is the same is not told again"


def scoped(agent: Agent) -> list[str]:
    last = [each for each in agent.heard if isinstance(each, Scope)][-1]
    return [each.name for each in last.services]


# -- leaving --------------------------------------------------------------------------------------------------------


async def test_a_workload_that_runs_and_is_gone_from_the_store_is_registered_again(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        await mesh.store.commit([Delete(ref=Ref(Kind.WORKLOAD, *WEB))])
        await eventually(lambda: WEB not in mesh.parts.world.mesh.workloads)
        agent.say(Heartbeat())
        await eventually(lambda: WEB in mesh.parts.world.mesh.workloads)
    assert mesh.happened("workload-returned") == [
        "shop/web was gone from the store while it runs: it is registered again"
    ]


async def test_an_orderly_leave_takes_the_workload_out_at_once(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        agent.say(ProxyGone(proxy="web-proxy"))
        await eventually(lambda: WEB not in mesh.parts.world.newest.workloads)
    assert mesh.parts.world.registrations.get("web-proxy") is None
    assert mesh.happened("workload-left") == ["shop/web left in order"]


async def test_a_machine_cannot_take_out_what_another_registered(mesh: Plant) -> None:
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(sidecar("web"))
        second.say(ProxyGone(proxy="web-proxy"), sidecar("other", port=22000))
        await second.hears(Accepted)
        assert WEB in mesh.parts.world.newest.workloads


async def test_a_stream_that_ends_keeps_the_workloads(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
    await eventually(lambda: mesh.happened("machine-lost"))
    assert mesh.parts.world.newest.workloads[WEB].state is WorkloadState.READY
    assert mesh.parts.agents.machines == {}


async def test_what_an_agent_does_not_name_any_more_is_gone(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"), sidecar("orders", port=22000))
    async with mesh.agent() as back:
        back.say(sidecar("web"), Synced())
        await eventually(lambda: set(mesh.parts.world.newest.workloads) == {WEB})
    assert mesh.parts.world.registrations.get("orders-proxy") is None


async def test_an_agent_forgets_nothing_of_other_machines_or_hands(mesh: Plant) -> None:
    await mesh.write("""---
apiVersion: masche.dev/v1
kind: Workload
metadata: {name: byhand, labels: {app: byhand}}
spec: {address: 127.0.0.3, ports: [{port: 80}]}
""")
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(sidecar("web"))
        second.say(Synced(), sidecar("other", port=22000))
        await second.hears(Accepted)
        assert {name.name for name in mesh.parts.world.newest.workloads} == {"web", "byhand", "other"}


async def test_a_draining_workload_is_drained_when_nobody_has_to_hear_of_it(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        agent.say(sidecar("web", phase="DRAINING"))
        assert await agent.hears(Drained, proxy="web-proxy")


async def test_a_drain_waits_for_callers_only_so_long(mesh: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_PATIENCE", 0.05)
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("caller"), sidecar("web", port=22000, wish="web"))
        mesh.parts.world.proxy("caller-proxy").opened(Silent(), at=1.0)
        agent.say(sidecar("web", port=22000, wish="web", phase="DRAINING"))
        await agent.hears(Drained, proxy="web-proxy")
    assert mesh.happened("drain-late")


async def test_a_drain_that_nobody_acknowledges_does_not_keep_the_control_plane_from_stopping(tmp_path: Path) -> None:
    async with asyncio.timeout(5):
        async with plant(tmp_path) as mesh, mesh.agent() as agent:
            await agent.enrols(sidecar("caller"), sidecar("web", port=22000, wish="web"))
            mesh.parts.world.proxy("caller-proxy").opened(Silent(), at=1.0)
            await agent.enrols(sidecar("web", port=22000, wish="web", phase="DRAINING"))


class Silent:
    """A stream of a caller that never acknowledges."""

    def wake(self) -> None:
        pass


# -- certificates and reports ---------------------------------------------------------------------------------------


async def test_a_certificate_names_what_was_registered_and_nothing_else(mesh: Plant) -> None:
    request = keys.signing_request(keys.generate())
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web", account="frontend"))
        reply = await mesh.parts.agents.sign(agent.peer, SignRequest(proxy="web-proxy", workload=WEB, csr=request))
        with pytest.raises(RefusedError, match="not registered"):
            await mesh.parts.agents.sign(
                agent.peer, SignRequest(proxy="web-proxy", workload=Name("shop", "orders"), csr=request)
            )
        with pytest.raises(RefusedError):
            await mesh.parts.agents.sign(agent.peer, SignRequest(proxy="web-proxy", workload=WEB, csr=b"no request"))
    assert identities(reply.chain) == ["spiffe://mesh.local/ns/shop/sa/frontend"]
    assert 0 < reply.lifetime <= 86400


async def test_a_machine_is_signed_nothing_for_what_another_registered(mesh: Plant) -> None:
    request = keys.signing_request(keys.generate())
    await join(mesh, "m9", Grant())
    async with mesh.agent("m1") as first, mesh.agent("m9", local=False) as second:
        await first.enrols(sidecar("web"))
        with pytest.raises(RefusedError, match="not registered"):
            await mesh.parts.agents.sign(second.peer, SignRequest(proxy="web-proxy", workload=WEB, csr=request))


async def test_two_agents_of_this_machine_each_get_what_is_theirs(mesh: Plant) -> None:
    request = keys.signing_request(keys.generate())
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(sidecar("web"))
        await second.enrols(sidecar("orders", port=22000))
        for agent, name in ((first, "web"), (second, "orders")):
            workload = Name("shop", name)
            signed = SignRequest(proxy=f"{name}-proxy", workload=workload, csr=keys.signing_request(keys.generate()))
            assert (await mesh.parts.agents.sign(agent.peer, signed)).chain
            reply = await mesh.parts.agents.report(agent.peer, Report(machine=agent.machine, epoch="e", sequence=1))
            assert reply.sequence == 1
    assert request


async def test_what_a_report_counted_is_not_kept_with_the_proxy(mesh: Plant) -> None:
    """It may be a megabyte, of each of a thousand proxies."""
    async with mesh.agent("m1") as agent:
        await agent.enrols(sidecar("web"))
        edge = EdgeReport(direction="outbound", workload=Name("shop", "web"), codes={200: 1})
        said = ProxyReport(proxy="web-proxy", exposed=(80,), edges=(edge,))
        await mesh.parts.agents.report(agent.peer, Report(machine="m1", epoch="e", sequence=1, proxies=(said,)))
        registration = mesh.parts.world.registrations.get("web-proxy")
        assert registration is not None
        assert registration.report == ProxyReport(proxy="web-proxy", exposed=(80,))


async def test_a_report_is_counted_once_and_only_for_its_own_machine(mesh: Plant) -> None:
    async with mesh.agent("m1") as agent:
        await agent.enrols(sidecar("web"))
        report = Report(machine="m1", epoch="e", sequence=1, proxies=(ProxyReport(proxy="web-proxy", exposed=(80,)),))
        await mesh.parts.agents.report(agent.peer, report)
        registration = mesh.parts.world.registrations.get("web-proxy")
        assert registration is not None
        assert registration.report == report.proxies[0]
        again = Report(machine="m1", epoch="e", sequence=1, proxies=(ProxyReport(proxy="web-proxy"),))
        assert (await mesh.parts.agents.report(agent.peer, again)).sequence == 1
        known = mesh.parts.world.registrations.get("web-proxy")
        assert known is not None
        assert known.report == report.proxies[0]
        with pytest.raises(RefusedError):
            await mesh.parts.agents.report(agent.peer, Report(machine="m2", epoch="e", sequence=2))


async def test_a_machine_that_was_revoked_is_sent_away_and_not_admitted_again(mesh: Plant) -> None:
    await join(mesh, "m9", Grant())
    async with mesh.agent("m9", local=False) as agent:
        await agent.enrols(sidecar("web"))
        await mesh.plane.revoke_machine("m9")
        assert "revoked" in (await agent.hears(Refused)).why
        await agent.until(lambda: agent.is_over)
    with pytest.raises(RefusedError, match="revoked"):
        mesh.parts.agents.admit(agent.peer)
    assert mesh.happened("machine-revoked")


# -- what one agent cannot do to others -------------------------------------------------------------------------------


async def test_an_agent_that_does_not_read_is_cut_off_and_nobody_else(mesh: Plant) -> None:
    session = Session(Peer(machine="m1"))
    for _ in range(OUTBOX_LIMIT + 5):
        session.say(Roots(trust_domain="mesh.local", roots=""))
    assert len(session.outbox) <= OUTBOX_LIMIT
    left = [await session.outbox.get() for _ in range(len(session.outbox))]
    assert None in left, "its stream ends"


async def test_a_defect_in_hearing_one_agent_ends_its_stream_alone(
    mesh: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(sidecar("web"))
        monkeypatch.setattr(module, "enrol", fails)
        second.say(sidecar("other", port=22000))
        await second.until(lambda: second.is_over)
        monkeypatch.undo()
        await first.enrols(sidecar("web", phase="UNHEALTHY"))
    assert any("ZeroDivisionError" in each for each in mesh.happened("agent-failed"))


def fails(*_: object, **__: object) -> None:
    raise ZeroDivisionError("no way")


async def join(mesh: Plant, machine: str, grant: Grant) -> None:
    machines: Machines = mesh.parts.ground.machines
    await machines.welcome(machine, grant, keys.signing_request(keys.generate()), now=mesh.parts.ground.wall())


def identities(chain: str) -> list[str]:
    from cryptography import x509

    leaf = x509.load_pem_x509_certificates(chain.encode())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)
