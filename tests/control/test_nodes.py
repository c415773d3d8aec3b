"""One proxy serves all workloads of a machine: what each of them says, is given and is refused is its own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from control.plant import Agent, Plant, eventually, plant, service, sidecar
from control.test_agents import Silent, identities, join
from masche.control import enrolling as module
from masche.control.agents import REFUSALS_AT_ONCE
from masche.control.enrolment import enrol
from masche.control.sessions import Outbox
from masche.identity import keys
from masche.identity.authority import Refusal
from masche.identity.join import Grant
from masche.link.messages import (
    MAX_MESSAGE_BYTES,
    Accepted,
    Drained,
    Heartbeat,
    Occupant,
    ProxyGone,
    ProxyState,
    Refused,
    Scope,
    ScopeService,
    SignRequest,
    Synced,
    encode,
)
from masche.link.refusal import RefusedError
from masche.link.workloads import node_proxy_id
from masche.model.mesh import Mesh
from masche.model.ports import Change, Delete, Edit
from masche.model.refs import Kind, Name, PortRef, Ref
from masche.model.vantage import Capture, Placement, Seat, SeatPort
from masche.model.view import Protocol
from masche.wire.types import LISTENER

WEB, ORDERS, STOCK = (Name("shop", name) for name in ("web", "orders", "stock"))


def occupant(name: str, *, phase: str = "READY", number: int = 0, **more: object) -> Occupant:
    """A workload in a namespace of its own; its mesh port is made of its name, unless ``number`` says which."""
    port = 20000 + (number or sum(name.encode()))
    [made] = sidecar(name, phase=phase, port=port).occupants
    seat = Seat(
        workload=made.seat.workload,
        bind="10.1.0.1",
        ports=(SeatPort(name="http", app_port=8080, mesh_port=port),),
        namespace_path=f"/var/run/netns/{name}",
        capture=Capture(port=15001, inbound_port=15006, has_ipv6=True),
    )
    return msgspec.structs.replace(made, **{"seat": seat, "address": "10.1.0.1", **more})


def node(*occupants: Occupant | str, machine: str = "m1") -> ProxyState:
    found = (occupant(each) if isinstance(each, str) else each for each in occupants)
    return ProxyState(proxy=node_proxy_id(machine), placement=Placement.NODE, occupants=tuple(found))


def registered(mesh: Plant, machine: str = "m1") -> list[str]:
    found = mesh.parts.world.registrations.get(node_proxy_id(machine))
    return [name.name for name in found.workloads] if found else []


@asynccontextmanager
async def commits(mesh: Plant) -> AsyncIterator[list[list[str]]]:
    """What is written meanwhile, commit by commit."""
    seen: list[list[str]] = []
    real = mesh.store.commit

    async def commit(edits: Sequence[Edit], *, expect: int | None = None) -> Change:
        change = await real(edits, expect=expect)
        if edits:
            seen.append([each.ref.name if isinstance(each, Delete) else each.resource.name.name for each in edits])
        return change

    mesh.store.commit = commit  # type: ignore[method-assign] # a spy that does the real thing
    try:
        yield seen
    finally:
        mesh.store.commit = real  # type: ignore[method-assign] # as it was


# -- one bad occupant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (occupant("bad", labels={"app": "not a label"}), "is no label"),
        (occupant("Not a Name"), "name"),
        (occupant("bad", zone="z" * 300), "zone"),
        (occupant("byhand"), "written by hand"),
        (occupant("bad", zone="south"), "in zone south"),
    ],
)
async def test_an_occupant_that_cannot_be_one_is_refused_alone(mesh: Plant, bad: Occupant, why: str) -> None:
    await mesh.write(BY_HAND)
    async with mesh.agent() as agent:
        agent.say(node("web", bad, "orders"))
        refused = await agent.hears(Refused, workload=bad.seat.workload)
        await agent.hears(Accepted, proxy="node~m1")
        assert why in refused.why
        await agent.hears(Scope, workload=ORDERS)
        assert registered(mesh) == ["web", "orders"]
        assert [each for each in agent.heard if isinstance(each, Refused)] == [refused]


BY_HAND = """---
apiVersion: masche.dev/v1
kind: Workload
metadata: {name: byhand, namespace: shop, labels: {app: byhand}}
spec: {address: 10.9.9.9, ports: [{name: http, port: 8080}], serviceAccount: byhand}
"""


async def test_what_others_serve_is_refused_as_taken_and_takes_nobody_else_out(mesh: Plant) -> None:
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(node("web"))
        second.say(node("web", "orders", machine="m2"))
        refused = await second.hears(Refused, workload=WEB)
        await second.hears(Scope, workload=ORDERS)
        assert refused.is_taken
        assert "served by machine m1" in refused.why
        assert (registered(mesh, "m1"), registered(mesh, "m2")) == (["web"], ["orders"])


async def test_a_machine_runs_only_whom_its_credential_permits_and_is_signed_only_for_them(mesh: Plant) -> None:
    await join(mesh, "m9", Grant(namespaces=("shop",), service_accounts=("web", "orders")))
    request = keys.signing_request(keys.generate())
    async with mesh.agent("m9", local=False) as agent:
        agent.say(node("web", "stock", "orders", machine="m9"))
        refused = await agent.hears(Refused, workload=STOCK)
        assert "stock" in refused.why
        assert refused.fix == "make a join token that allows it"
        await agent.hears(Scope, workload=ORDERS)

        async def signed(workload: Name) -> list[str]:
            asked = SignRequest(proxy="node~m9", workload=workload, csr=request)
            return identities((await mesh.parts.agents.sign(agent.peer, asked)).chain)

        assert await signed(WEB) == ["spiffe://mesh.local/ns/shop/sa/web"]
        with pytest.raises(RefusedError, match="not registered"):
            await signed(STOCK)
    [told] = mesh.happened("sign-refused")
    assert "machine m9 was refused a certificate of shop/stock for node~m9" in told
    [refusal] = [each for each in mesh.audited if isinstance(each, Refusal)]
    assert (str(refusal.identity), refusal.why) == ("spiffe://mesh.local/machine/m9", told)


async def test_a_machine_that_asks_again_and_again_for_what_is_not_its_own_fills_no_disk(mesh: Plant) -> None:
    await join(mesh, "m9", Grant())
    request = keys.signing_request(keys.generate())
    async with mesh.agent("m9", local=False) as agent:
        await agent.enrols(node("web", machine="m9"))
        for _ in range(3 * REFUSALS_AT_ONCE):
            with pytest.raises(RefusedError):
                await mesh.parts.agents.sign(agent.peer, SignRequest(proxy="node~m9", workload=STOCK, csr=request))
    assert len(mesh.happened("sign-refused")) < 2 * REFUSALS_AT_ONCE
    assert sum(isinstance(each, Refusal) for each in mesh.audited) == len(mesh.happened("sign-refused"))


async def test_a_machine_is_signed_nothing_for_the_workloads_of_another_machines_node(mesh: Plant) -> None:
    await join(mesh, "m8", Grant())
    request = keys.signing_request(keys.generate())
    async with mesh.agent("m1") as first, mesh.agent("m8", local=False) as second:
        await first.enrols(node("web"))
        await second.enrols(node("orders", machine="m8"))
        for proxy in ("node~m1", "node~m8"):
            with pytest.raises(RefusedError, match="not registered"):
                await mesh.parts.agents.sign(second.peer, SignRequest(proxy=proxy, workload=WEB, csr=request))


async def test_nobody_registers_the_node_proxy_of_another_machine(mesh: Plant) -> None:
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(node("web"))
        second.say(node("orders", machine="m1"))
        assert "not the node proxy of machine m2" in (await second.hears(Refused, proxy="node~m1")).why
        assert registered(mesh, "m1") == ["web"]


async def test_nobody_registers_a_proxy_that_another_machine_runs(mesh: Plant) -> None:
    """Its configuration would be replaced by that of a stranger's workload."""
    async with mesh.agent("m1") as first, mesh.agent("m2") as second:
        await first.enrols(sidecar("web"))
        second.say(sidecar("orders", proxy="web-proxy"))
        assert "run by machine m1" in (await second.hears(Refused, proxy="web-proxy")).why
        found = mesh.parts.world.registrations.get("web-proxy")
        assert found is not None
        assert found.machine == "m1"


async def test_who_is_refused_stays_what_it_was_before(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node("web", "orders"))
        agent.say(node(occupant("web", labels={"app": "not a label"}), occupant("orders", phase="UNHEALTHY")))
        await agent.hears(Refused, workload=WEB)
        await eventually(lambda: mesh.parts.world.mesh.workloads[ORDERS].state == "UNHEALTHY")
        assert registered(mesh) == ["web", "orders"]
        assert mesh.parts.world.mesh.workloads[WEB].metadata.labels == {"app": "web"}


# -- one of many --------------------------------------------------------------------------------------------------


async def test_a_change_of_one_is_one_commit_of_it_alone(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node("web", "orders"))
        before = mesh.parts.world.mesh.workloads
        async with commits(mesh) as written:
            await agent.enrols(node("web", occupant("orders", phase="UNHEALTHY")))
            await agent.enrols(node("web", occupant("orders", phase="UNHEALTHY"), "stock"))
            await agent.enrols(node("web", occupant("orders", phase="UNHEALTHY"), "stock"))
        after = mesh.parts.world.mesh.workloads
    assert written == [["orders"], ["stock"]]
    assert after[WEB] is before[WEB]


async def test_one_that_is_not_named_any_more_has_left_and_the_others_serve_on(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node("web", "orders"))
        async with commits(mesh) as written:
            await agent.enrols(node("web"))
        assert written == [["orders"]]
        assert set(mesh.parts.world.mesh.workloads) == {WEB}
        assert mesh.happened("workload-left") == ["shop/orders left in order"]
        await agent.enrols(node("web", "orders"))
        await agent.until(lambda: sum(isinstance(each, Scope) and each.workload == ORDERS for each in agent.heard) == 2)


def test_whoever_one_proxy_serves_is_in_the_zone_of_its_machine() -> None:
    state = node(occupant("web", zone="north"), occupant("orders", zone="south"))
    found = enrol(Mesh(), state, origin=("m1", ""), is_alive=lambda _: True, zone="north")
    assert [each.seat.workload for each in found.state.occupants] == [WEB]
    assert found.refused[ORDERS].why == "shop/orders is in zone south, and the proxy of its machine in zone north"


async def test_a_node_may_be_empty(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node())
        wanted = mesh.parts.world.proxy("node~m1").wanted
        assert wanted is not None
        assert not wanted
        await agent.enrols(node("web"))
        assert mesh.parts.world.proxy("node~m1").wanted
        await agent.enrols(node())
        assert not mesh.parts.world.proxy("node~m1").wanted


async def test_a_workload_that_moved_to_the_node_stays_when_its_sidecar_leaves(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        await agent.enrols(node("web"))
        agent.say(ProxyGone(proxy="web-proxy"))
        await eventually(lambda: mesh.parts.world.registrations.get("web-proxy") is None)
        assert WEB in mesh.parts.world.newest.workloads


async def test_each_that_drains_is_told_for_itself(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node("web", "orders"))
        agent.say(node("web", occupant("orders", phase="DRAINING")))
        await agent.hears(Drained, proxy="node~m1", workload=ORDERS)
        agent.say(node(occupant("web", phase="DRAINING")))
        await agent.hears(Drained, proxy="node~m1", workload=WEB)


async def test_a_drain_waits_for_callers_while_the_others_serve(mesh: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_PATIENCE", 0.05)
    await mesh.write(service("orders"))
    async with mesh.agent() as agent:
        await agent.enrols(node("web", "orders"))
        mesh.parts.world.proxy("node~m1").opened(Silent(), at=1.0)
        agent.say(node("web", occupant("orders", phase="DRAINING")))
        await agent.hears(Drained, workload=ORDERS)
        assert mesh.happened("drain-late")
        assert mesh.parts.world.mesh.workloads[WEB].state == "READY"


async def test_each_is_told_what_it_may_call(mesh: Plant) -> None:
    await mesh.write(service("orders") + service("web"))
    async with mesh.agent() as agent:
        agent.say(node("web", occupant("orders", dependencies=("web",))))
        everything = await agent.hears(Scope, workload=WEB)
        assert [each.name for each in everything.services] == ["orders", "web"]
        assert all(each.addresses and each.hosts for each in everything.services)
        assert [each.name for each in (await agent.hears(Scope, workload=ORDERS)).services] == ["web"]


async def test_an_agent_that_is_back_says_everything_and_writes_nothing(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node("web", "orders"))
    async with commits(mesh) as written, mesh.agent() as agent:
        agent.say(node("web", "orders"), Synced())
        await agent.hears(Accepted, proxy="node~m1")
        await agent.hears(Scope, workload=ORDERS)
    assert written == []
    assert registered(mesh) == ["web", "orders"]


async def test_of_an_agent_that_is_back_with_fewer_the_others_are_gone(tmp_path: Path) -> None:
    async with plant(tmp_path / "a") as mesh:
        async with mesh.agent() as agent:
            await agent.enrols(node("web", "orders"))
        async with plant(tmp_path / "b", store=mesh.store) as other, other.agent() as agent:
            agent.say(node("web"), Synced())
            await eventually(lambda: set(other.parts.world.newest.workloads) == {WEB})


async def test_every_lease_is_renewed_and_who_is_gone_from_the_store_comes_back_alone(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node("web", "orders"))
        wanted = mesh.parts.world.proxy("node~m1").wanted
        await mesh.store.commit([Delete(ref=Ref(Kind.WORKLOAD, *WEB))])
        await eventually(lambda: WEB not in mesh.parts.world.mesh.workloads)
        assert mesh.parts.world.proxy("node~m1").wanted is wanted, "what runs is served on"
        async with commits(mesh) as written:
            agent.say(Heartbeat())
            await eventually(lambda: WEB in mesh.parts.world.mesh.workloads)
        assert written == [["web"]]


async def test_who_is_not_in_the_mesh_yet_starves_nobody(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(node("web"))
        world = mesh.parts.world
        found = world.registrations.get("node~m1")
        assert found is not None
        state = node("web", "orders")
        world.register(replace(found, state=state))
        wanted = world.proxy("node~m1").wanted
        assert wanted is not None
        assert wanted.table(LISTENER)


# -- bounds -------------------------------------------------------------------------------------------------------


def test_two_hundred_workloads_fit_into_a_message() -> None:
    name = "a-service-with-a-rather-long-name-{:03}-0123456789"
    labels = {"app": name, "version": "v1.2.3", "team": "somebody-who-cares", "track": "canary"}
    everybody = [
        occupant(name.format(number), number=number, labels=labels, dependencies=tuple("abcdefgh"), zone="north")
        for number in range(200)
    ]
    assert len(encode(node(*everybody))) < MAX_MESSAGE_BYTES / 4


async def test_of_each_workload_only_the_newest_scope_waits() -> None:
    outbox = Outbox()
    services = tuple(ScopeService(port=PortRef("shop", "web", port), protocol=Protocol.HTTP) for port in (80, 81))
    for scope in (
        Scope(proxy="node~m1", workload=WEB),
        Scope(proxy="node~m1", workload=ORDERS),
        Scope(proxy="node~m1", workload=WEB, services=services),
    ):
        outbox.put(scope)
    outbox.put(None)
    told = [await outbox.get() for _ in range(len(outbox))]
    assert told == [
        Scope(proxy="node~m1", workload=WEB, services=services),
        Scope(proxy="node~m1", workload=ORDERS),
        None,
    ]


async def test_a_state_with_a_workload_named_twice_has_it_once(mesh: Plant) -> None:
    agent: Agent
    async with mesh.agent() as agent:
        agent.say(node("web", "web", "orders"))
        assert "named twice" in (await agent.hears(Refused, workload=WEB)).why
        await agent.hears(Scope, workload=ORDERS)
        assert registered(mesh) == ["web", "orders"]
