"""Where it is plain that nothing moves nothing is worked out, and what is decided is the same."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import a_mesh

from masche.compiler.steer import steersman as module
from masche.compiler.steer.calm import is_calm
from masche.compiler.steer.moves import Decision
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.model.refs import PortRef
from masche.testing.simulated_zones import Server, Simulation, mesh_of

PORT = PortRef("shop", "orders", 80)
ZONES = "abc"
SITES = tuple(Site(f"shop/{zone}{number}", zone) for zone in ZONES for number in range(3))
NETWORK_US = {"a": 100.0, "b": 2_000.0, "c": 2_500.0}

Spell = tuple[int, float, float, int, int]
"""Seconds, how many times slower the first instance and the link to b are, failed calls of the first one, and calls."""
SPELLS = st.lists(
    st.tuples(
        st.integers(1, 8),
        st.sampled_from([1.0, 1.0, 1.5, 2.2, 30.0]),
        st.sampled_from([1.0, 1.0, 1.9, 3.0, 90.0]),
        st.sampled_from([0, 0, 0, 1, 9]),
        st.sampled_from([1, 5, 40]),
    ),
    max_size=5,
)


def seens(spell: Spell, chance: Random) -> list[Seen]:
    _, slower, farther, failed, calls = spell
    made: list[Seen] = []
    for site in SITES:
        is_first = site == SITES[0]
        service = 2_000.0 * (slower if is_first else 1.0) * chance.lognormvariate(0.0, 0.05)
        network = NETWORK_US[site.zone] * (farther if site.zone == "b" else 1.0)
        errors = failed if is_first else 0
        made.append(
            Seen(
                workload=site.workload,
                zone=site.zone,
                caller="web",
                answers=max(0, calls - errors),
                errors=errors,
                latency_us=service + network,
                service_us=service,
                is_ejected=errors > 5,
            )
        )
    return made


def decided(spells: list[Spell], gateways: frozenset[str]) -> list[Decision]:
    """What is decided in each second."""
    chance, steersman, found, now = Random(1), Steersman(), list[Decision](), 0.0
    terrain = Terrain(ports={PORT: Ground(sites=SITES)}, gateways=gateways, callers=dict.fromkeys(ZONES, 3))
    for spell in spells:
        for _ in range(spell[0]):
            steersman.saw((PORT, "a"), seens(spell, chance), now=now)
            found.append(steersman.steer(terrain, now=now))
            now += 1.0
    return found


@settings(max_examples=60, deadline=None)
@given(SPELLS, st.sampled_from([frozenset[str](), frozenset("c")]))
def test_what_is_not_worked_out_would_not_have_moved_anything(spells: list[Spell], gateways: frozenset[str]):
    found = decided(spells, gateways)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_calm", lambda *_args, **_more: False)
        assert decided(spells, gateways) == found


def test_a_simulated_mesh_moves_as_if_every_desk_were_looked_at():
    servers = [
        Server(name=f"shop/orders-{zone}{number}", zone=zone, capacity=60.0) for zone in "abcd" for number in range(2)
    ]
    callers = dict.fromkeys("abcd", 5)

    def moved() -> list[tuple[float, str]]:
        mesh = a_mesh(mesh_of(servers, callers))
        simulation = Simulation(
            mesh=mesh,
            servers=servers,
            callers=callers,
            rate=10.0,
            network_us=lambda a, b, now: 100.0 if a == b else (2e5 if {a, b} == {"a", "b"} and 10 < now < 30 else 2e3),
        ).run(45)
        return [(at, move.sentence) for at, move in simulation.moves]

    found = moved()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_calm", lambda *_args, **_more: False)
        assert moved() == found


def test_most_of_an_even_mesh_is_calm(monkeypatch: pytest.MonkeyPatch):
    looks: list[bool] = []
    monkeypatch.setattr(module, "is_calm", lambda *args, **more: looks.append(is_calm(*args, **more)) or looks[-1])
    decided([(20, 1.0, 1.0, 0, 40)], frozenset("c"))
    assert sum(looks) >= 15
    looks.clear()
    decided([(20, 30.0, 1.0, 0, 40)], frozenset("c"))
    assert not any(looks)
