"""The law of Knowledge: whatever a control plane told and took back on the way, in the end each authority is known as
by a Knowledge that was given the last world at once; and no half of a change is seen meanwhile."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from library.knowledge.foreign_plane import serving
from library.knowledge.telling import Telling, client_of, knowing
from masche.library.core.ports import Known
from masche.library.knowledge.knowledge import XdsKnowledge
from masche.model.told import Discovery, Table, Told
from masche.model.view import VirtualHost
from masche.testing.check_knowledge import cluster, instances, route
from masche.testing.static_knowledge import StaticKnowledge, World
from masche.traffic.virtual_hosts import clusters_of
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client_words import Patience

NAMES = [f"outbound/shop/{name}/80" for name in "abcdef"]
AUTHORITIES = ["a", "b", "c", "d.example.org", "e.b.example.org", "nobody"]
DOMAINS = ["a", "b", "c", "*.example.org", "*.b.example.org", "*"]


def drawn(rng: Random) -> World:
    """A world by chance: some domains, some clusters (aggregates too), some endpoints."""
    domains = rng.sample(DOMAINS, rng.randint(0, len(DOMAINS)))
    hosts = tuple(
        VirtualHost(hosts=(domain,), routes=(route(*rng.sample(NAMES, rng.randint(0, 3))),)) for domain in domains
    )
    destinations = []
    for name in rng.sample(NAMES, rng.randint(0, len(NAMES))):
        if rng.random() < 0.25:
            members = tuple(rng.sample(NAMES, 2))
            destinations.append(cluster(name, discovery=Discovery.AGGREGATE, members=members))
        else:
            destinations.append(cluster(name, assignment=rng.choice([name, NAMES[0]])))
    endpoints = {name: instances(name, f"10.0.0.{rng.randint(1, 3)}") for name in NAMES}
    return World(
        table=Table(name=f"table-{rng.randint(1, 2)}", hosts=hosts),
        destinations=tuple(destinations),
        endpoints=endpoints,
    )


def is_whole(known: Known) -> bool:
    """Every cluster of it that is needed is there, or surely not to be had, and each has its endpoints."""
    leaves = {name for name, each in known.destinations.items() if each.discovery is not Discovery.AGGREGATE}
    return known.endpoints.keys() == leaves


async def tell(telling: Telling, world: World, *, is_inline: bool) -> None:
    telling.plane.resources = {
        LISTENER: {},
        ROUTES: {},
        CLUSTER: {},
        ENDPOINTS: telling.plane.resources.get(ENDPOINTS, {}),
    }
    await telling.put(world)
    if is_inline:
        telling.say(LISTENER, "proxy", Told(name="proxy", table=world.table))
        telling.plane.push()


@pytest.mark.parametrize("seed", range(12))
async def test_in_the_end_all_is_known_as_if_it_had_been_told_at_once(seed: int, tmp_path: Path):
    rng = Random(seed)
    telling, path = Telling(), tmp_path / "xds.sock"
    client = client_of(telling, f"unix:{path}", patience=Patience(absent=0.3, answered=0.05, forgotten=0.5))
    expected = StaticKnowledge()
    async with knowing(client, idle=rng.choice([0.3, 3600.0])) as knowledge:
        for _ in range(3):
            async with serving(path, telling.plane):
                for _ in range(6):
                    world = drawn(rng)
                    await tell(telling, world, is_inline=rng.random() < 0.3)
                    expected.put(world)
                    await some_time(knowledge, rng)
                await settled(knowledge, expected)


async def some_time(knowledge: XdsKnowledge, rng: Random) -> None:
    for _ in range(rng.randint(0, 8)):
        for authority in rng.sample(AUTHORITIES, 3):
            known = knowledge.known(authority)
            assert known is None or is_whole(known)
            if rng.random() < 0.2:
                knowledge.want(authority).cancel()
        await asyncio.sleep(rng.choice([0, 0.001, 0.02]))


async def settled(knowledge: XdsKnowledge, expected: StaticKnowledge) -> None:
    """Wait until both say the same of everything."""

    def differences() -> list[tuple[str, Known | None, Known | None]]:
        both = [(name, knowledge.known(name), expected.known(name)) for name in AUTHORITIES]
        return [each for each in both if each[1] != each[2]]

    try:
        async with asyncio.timeout(10):
            while differences():
                await asyncio.sleep(0.01)
    except TimeoutError:
        name, found, wanted = differences()[0]
        clusters = sorted(clusters_of(wanted.host)) if wanted else []
        raise AssertionError(f"{knowledge!r} {name}: {found} is not {wanted}, of {clusters}") from None
    await asyncio.gather(*(asyncio.wrap_future(knowledge.want(name)) for name in AUTHORITIES))
