"""What the library knows: completely or not at all, only what is called, and kept through whatever the plane does."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from library.knowledge.foreign_plane import serving
from library.knowledge.telling import Telling, client_of, knowing, told, until
from masche.library.core.ports import Known, MeshError
from masche.library.knowledge.knowledge import XdsKnowledge
from masche.model.told import Discovery, Table, Told, ToldServer
from masche.model.view import Fault, Forward, Inbound, VirtualHost
from masche.testing.check_knowledge import CARTS, COPIES, ORDERS, TOWN, check_knowledge, cluster, instances, route
from masche.testing.static_knowledge import StaticKnowledge, World
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client_words import Patience

A, B, C = (f"outbound/shop/{name}/80" for name in "abc")
OUTSIDE = "outside"
SLOW = Patience(absent=60.0, answered=60.0)


def town(*hosts: tuple[str, tuple[str, ...]], **more) -> World:
    """A world of virtual hosts by domain and the clusters that each leads to."""
    virtual = tuple(VirtualHost(hosts=(domain,), routes=(route(*names),)) for domain, names in hosts)
    return World(table=Table(name="table", hosts=virtual), **more)


async def wanted(knowledge: XdsKnowledge, authority: str, *, timeout: float = 10.0) -> Known:
    return await asyncio.wait_for(asyncio.wrap_future(knowledge.want(authority)), timeout)


async def test_the_real_one_does_what_every_knowledge_must(tmp_path: Path):
    telling = Telling()
    telling.plane.knows = False
    async with told(tmp_path, telling, patience=Patience(absent=60.0, answered=0.1)) as knowledge:
        await check_knowledge(knowledge, telling.put)


async def test_the_double_does_what_every_knowledge_must():
    knowledge = StaticKnowledge()

    async def put(world: World) -> None:
        knowledge.put(world)

    await check_knowledge(knowledge, put)


async def test_only_what_is_called_is_asked_for(tmp_path: Path):
    telling = Telling()
    await telling.put(TOWN)
    async with told(tmp_path, telling) as knowledge:
        await wanted(knowledge, "orders")
        assert telling.plane.asked(LISTENER) == {"proxy"}
        assert telling.plane.asked(ROUTES) == {"proxy"}
        assert telling.plane.asked(CLUSTER) == {ORDERS, COPIES}
        assert telling.plane.asked(ENDPOINTS) == {ORDERS, COPIES}


async def test_nothing_is_known_of_an_authority_until_all_of_it_is(tmp_path: Path):
    telling = Telling()
    world = town(("a", (A, B)), destinations=(cluster(A), cluster(B)), endpoints={A: instances(A, "10.0.0.1")})
    await telling.put(world)
    async with told(tmp_path, telling, patience=SLOW) as knowledge:
        future = knowledge.want("a")
        await until(lambda: B in telling.plane.asked(ENDPOINTS))
        await until(lambda: knowledge.waiting_for() == f"the endpoints of {B}, from the control plane")
        assert knowledge.known("a") is None
        telling.say(ENDPOINTS, B, instances(B))
        telling.plane.push()
        known = await asyncio.wait_for(asyncio.wrap_future(future), 10)
        assert known.endpoints == {A: instances(A, "10.0.0.1"), B: instances(B)}


async def test_the_old_is_kept_while_the_new_is_loading(tmp_path: Path):
    telling = Telling()
    endpoints = {A: instances(A, "10.0.0.1")}
    await telling.put(town(("a", (A,)), destinations=(cluster(A),), endpoints=endpoints))
    async with told(tmp_path, telling, patience=SLOW) as knowledge:
        before = await wanted(knowledge, "a")
        await telling.put(town(("a", (B,)), destinations=(cluster(A), cluster(B)), endpoints=endpoints))
        await until(lambda: B in telling.plane.asked(ENDPOINTS))
        assert knowledge.known("a") is before
        assert A in telling.plane.asked(CLUSTER), "what is in use is still followed"
        telling.say(ENDPOINTS, B, instances(B, "10.0.0.2"))
        telling.plane.push()
        await until(lambda: knowledge.known("a") is not before)
        known = knowledge.known("a")
        assert known is not None
        assert known.destinations.keys() == {B}
        await until(lambda: A not in telling.plane.asked(CLUSTER))


async def test_a_name_that_gets_a_virtual_host_of_its_own_is_answered_as_before_until_that_is_known(tmp_path: Path):
    telling = Telling()
    rest = cluster(OUTSIDE, discovery=Discovery.PASSTHROUGH)
    await telling.put(town(("*", (OUTSIDE,)), destinations=(rest,)))
    async with told(tmp_path, telling, patience=SLOW) as knowledge:
        before = await wanted(knowledge, "new")
        assert before.destinations.keys() == {OUTSIDE}
        await telling.put(town(("new", (A,)), ("*", (OUTSIDE,)), destinations=(rest, cluster(A))))
        await until(lambda: A in telling.plane.asked(ENDPOINTS))
        assert knowledge.known("new") is before
        telling.say(ENDPOINTS, A, instances(A))
        telling.plane.push()
        await until(lambda: knowledge.known("new") is not before)


async def test_what_is_refused_or_absent_is_left_out_and_does_not_hold_up_the_rest(tmp_path: Path):
    telling = Telling()
    world = town(("a", (A, B, C)), destinations=(cluster(A), cluster(C)), endpoints={C: instances(C, "10.0.0.3")})
    await telling.put(world)
    telling.say(CLUSTER, B, ValueError("no such policy"))
    async with told(tmp_path, telling) as knowledge:
        known = await wanted(knowledge, "a")
        assert known.destinations.keys() == {A, C}
        assert known.endpoints == {A: instances(A).__class__(service=cluster(A).cluster.service), C: world.endpoints[C]}
        await until(lambda: telling.plane.refusals == [f"{B}: no such policy"])


async def test_an_authority_that_no_virtual_host_has_leads_nowhere(tmp_path: Path):
    telling = Telling()
    await telling.put(town(("a", ())))
    async with told(tmp_path, telling) as knowledge:
        known = await wanted(knowledge, "b")
        assert known.host.routes == ()


async def test_a_million_strangers_cost_one_virtual_host(tmp_path: Path):
    telling = Telling()
    rest = cluster(OUTSIDE, discovery=Discovery.PASSTHROUGH)
    await telling.put(town(("*", (OUTSIDE,)), destinations=(rest,)))
    async with told(tmp_path, telling) as knowledge:
        known = await wanted(knowledge, "first.example.org")
        for number in range(20_000):
            assert knowledge.known(f"host-{number}.example.org") is known
        assert len(knowledge._said.answers) <= 1024
        (tree,) = knowledge._trees.values()
        assert list(tree.places) == ["*"]


async def test_a_known_authority_is_answered_within_a_microsecond(tmp_path: Path):
    telling = Telling()
    await telling.put(TOWN)
    async with told(tmp_path, telling) as knowledge:
        await wanted(knowledge, "orders")
        best = 1.0
        for _ in range(50):
            began = time.perf_counter()
            for _ in range(1000):
                knowledge.known("orders")
            best = min(best, (time.perf_counter() - began) / 1000)
        assert best < 1e-6, f"{best * 1e9:.0f} ns"


async def test_what_nobody_asks_for_any_more_is_no_longer_watched(tmp_path: Path):
    telling = Telling()
    await telling.put(TOWN)
    async with told(tmp_path, telling, idle=0.4) as knowledge:
        await wanted(knowledge, "orders")
        await wanted(knowledge, "carts")

        def is_forgotten() -> bool:
            known = knowledge.known("carts")
            assert known is not None, "what is asked for stays"
            return ORDERS not in telling.plane.asked(CLUSTER)

        await until(is_forgotten)
        assert CARTS in telling.plane.asked(CLUSTER)
        await wanted(knowledge, "orders")


async def test_aggregates_are_known_as_their_members_in_order(tmp_path: Path):
    telling = Telling()
    both = cluster("both", discovery=Discovery.AGGREGATE, members=("inner", C))
    inner = cluster("inner", discovery=Discovery.AGGREGATE, members=(A, B, A))
    loop = cluster("loop", discovery=Discovery.AGGREGATE, members=(A, "loop"))
    endpoints = {name: instances(name, "10.0.0.1") for name in (A, B, C)}
    leaves = (cluster(A), cluster(B), cluster(C))
    await telling.put(
        town(("a", ("both",)), ("b", ("loop",)), destinations=(both, inner, loop, *leaves), endpoints=endpoints)
    )
    async with told(tmp_path, telling) as knowledge:
        known = await wanted(knowledge, "a")
        assert known.destinations["both"].members == (A, B, C)
        assert known.endpoints == endpoints
        assert "loop" not in (await wanted(knowledge, "b")).destinations


async def test_names_are_resolved_and_resolved_again_and_the_last_good_addresses_stay(tmp_path: Path):
    telling = Telling()
    legacy = cluster("legacy", discovery=Discovery.LOGICAL_DNS, host="legacy.example", port=8443)
    await telling.put(town(("a", ("legacy",)), destinations=(legacy,)))
    answers: list[list[str] | OSError] = [["10.0.0.1"], OSError("no answer"), ["10.0.0.2", "10.0.0.3"]]
    asked: list[tuple[str, int]] = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append((host, port))
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    client = client_of(telling, f"unix:{tmp_path}/xds.sock")
    async with serving(tmp_path / "xds.sock", telling.plane), knowing(client, resolver=resolver) as knowledge:
        knowledge._names._again = 0.05
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("masche.library.knowledge.names.AFTER_FAILURE", 0.05)
            addresses: list[list[str]] = []

            def is_moved() -> bool:
                known = knowledge.known("a")
                if known is not None:
                    (locality,) = known.endpoints["legacy"].localities
                    found = [f"{each.address}:{each.port}" for each in locality.endpoints]
                    if found not in addresses:
                        addresses.append(found)
                return len(addresses) == 2

            await until(is_moved)
        assert addresses == [["10.0.0.1:8443"], ["10.0.0.2:8443", "10.0.0.3:8443"]]
        assert set(asked) == {("legacy.example", 8443)}


async def test_what_is_known_outlives_the_control_plane_and_follows_the_next(tmp_path: Path):
    telling = Telling()
    await telling.put(TOWN)
    path = tmp_path / "xds.sock"
    async with knowing(client_of(telling, f"unix:{path}")) as knowledge:
        async with serving(path, telling.plane):
            before = await wanted(knowledge, "orders")
        await until(lambda: not knowledge._client.is_connected)
        assert knowledge.known("orders") is before
        assert knowledge.waiting_for() == "", "nothing is missing"
        fresh = knowledge.want("carts")
        await until(lambda: f"the control plane at unix:{path} (" in knowledge.waiting_for())
        await telling.put(replace(TOWN, endpoints={**TOWN.endpoints, ORDERS: instances(ORDERS, "10.0.0.7")}))
        async with serving(path, telling.plane):
            await asyncio.wait_for(asyncio.wrap_future(fresh), 10)
            await until(lambda: (known := knowledge.known("orders")) is not None and known is not before)


async def test_a_control_plane_that_is_dead_from_the_start_is_named(tmp_path: Path):
    async with knowing(client_of(Telling(), "127.0.0.1:9")) as knowledge:
        future = knowledge.want("orders")
        await until(lambda: knowledge.waiting_for() == "the control plane at 127.0.0.1:9 (connection refused)")
        assert not future.done()
        assert future.cancel()
        await until(lambda: not knowledge._waiting)


async def test_who_waits_is_told_that_nothing_will_come(tmp_path: Path):
    telling = Telling()
    telling.say(LISTENER, "broken.example", ValueError("two filters"))
    telling.say(LISTENER, "server.example", ToldServer(name="server.example", inbound=Inbound()))
    telling.say(LISTENER, "empty.example", Told(name="empty.example", table_name="gone"))
    async with told(tmp_path, telling, template="%s") as knowledge:
        with pytest.raises(MeshError, match=r"the control plane has no Listener nobody\.example"):
            await wanted(knowledge, "nobody.example")
        with pytest.raises(
            MeshError, match=r"the Listener broken\.example of the control plane is refused: two filters"
        ):
            await wanted(knowledge, "broken.example")
        with pytest.raises(MeshError, match="the control plane has no RouteConfiguration gone"):
            await wanted(knowledge, "empty.example")
        with pytest.raises(
            MeshError, match=r"the Listener server\.example of the control plane is not one for clients"
        ):
            await wanted(knowledge, "server.example")
        assert knowledge.waiting_for().count("; ") == 2, "the last three are named"


async def test_who_waits_when_the_process_ends_is_told_so(tmp_path: Path):
    async with knowing(client_of(Telling(), "127.0.0.1:9")) as knowledge:
        future = knowledge.want("orders")
        await until(lambda: knowledge._waiting)
    for each in (future, knowledge.want("carts")):
        with pytest.raises(MeshError, match="has ended"):
            each.result(timeout=1)
    assert knowledge.known("orders") is None


async def test_each_authority_has_its_own_listener_where_the_template_says_so(tmp_path: Path):
    telling = Telling()
    world = town(("a.example:8080", (A,)), destinations=(cluster(A),), endpoints={A: instances(A, "10.0.0.1")})
    telling.say(LISTENER, "a.example:8080", Told(name="a.example:8080", table=world.table))
    telling.say(CLUSTER, A, cluster(A))
    telling.say(ENDPOINTS, A, world.endpoints[A])
    async with told(tmp_path, telling, template="%s") as knowledge:
        known = await wanted(knowledge, "a.example:8080")
        assert known.destinations.keys() == {A}
        assert telling.plane.asked(LISTENER) == {"a.example:8080"}
        assert telling.plane.asked(ROUTES) == set()
        telling.plane.remove(LISTENER, "a.example:8080")
        telling.plane.push()
        await until(lambda: knowledge.known("a.example:8080") is None)
        telling.say(LISTENER, "a.example:8080", Told(name="a.example:8080", table=world.table))
        telling.plane.push()
        assert await wanted_again(knowledge, "a.example:8080") == known


async def wanted_again(knowledge: XdsKnowledge, authority: str) -> Known:
    """Ask until it is there: what does not exist fails at once."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await wanted(knowledge, authority)
            except MeshError:
                await asyncio.sleep(0.01)


async def test_listeners_of_hosts_that_are_asked_for_once_do_not_pile_up(tmp_path: Path):
    telling = Telling()
    world = town(("*", ()))
    telling.say(LISTENER, "kept.example", Told(name="kept.example", table=world.table))
    async with told(tmp_path, telling, template="%s", most_listeners=5) as knowledge:
        await wanted(knowledge, "kept.example")
        for number in range(50):
            knowledge.known(f"host-{number}.example")
            await asyncio.sleep(0)
        await until(lambda: len(telling.plane.asked(LISTENER)) <= 5)
        assert len(knowledge._trees) <= 5
        assert knowledge.known("kept.example") is not None, "what is held goes last"


async def test_what_a_listener_says_holds_for_its_routes(tmp_path: Path):
    telling = Telling()
    world = town(("a", (A,)), destinations=(cluster(A),), endpoints={A: instances(A)})
    fault = Fault(status=503, abort_percent=1.0)
    await telling.put(world)
    telling.say(LISTENER, "proxy", Told(name="proxy", table=world.table, fault=fault, max_duration=7.0))
    async with told(tmp_path, telling) as knowledge:
        (found,) = (await wanted(knowledge, "a")).host.routes
        assert found.fault == fault
        assert isinstance(found.action, Forward)
        assert found.action.timeout == 7.0


async def test_readers_of_other_threads_never_see_half_of_a_change(tmp_path: Path):
    telling = Telling()
    endpoints = {name: instances(name, "10.0.0.1") for name in (A, B)}
    worlds = [town(("a", (name,)), destinations=(cluster(A), cluster(B)), endpoints=endpoints) for name in (A, B)]
    await telling.put(worlds[0])
    wrong: list[object] = []
    done = threading.Event()

    def read(knowledge: XdsKnowledge) -> None:
        while not done.is_set():
            known = knowledge.known("a")
            if known is None or known.destinations.keys() != known.endpoints.keys() or len(known.destinations) != 1:
                wrong.append(known)

    async with told(tmp_path, telling, patience=SLOW) as knowledge:
        await wanted(knowledge, "a")
        readers = [threading.Thread(target=read, args=(knowledge,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(1, 20):
                name = (A, B)[number % 2]
                await telling.put(worlds[number % 2])
                await until(lambda name=name: name in (knowledge.known("a") or NOBODY).destinations)
        finally:
            done.set()
            for reader in readers:
                reader.join()
    assert not wrong


NOBODY = Known(host=VirtualHost(hosts=(), routes=()), destinations={}, endpoints={})


def test_before_it_runs_nothing_is_known_and_wishes_are_kept():
    knowledge = XdsKnowledge(client_of(Telling(), "127.0.0.1:9"), now=time.monotonic, rng=Random(7))
    assert knowledge.known("orders") is None
    future = knowledge.want("orders")
    assert not future.done()
    assert len(knowledge._wishes) == 2
