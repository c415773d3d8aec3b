"""Many callers, late and noisy reports: a short form of ``make bench NAME=steering``, in virtual time."""

from itertools import pairwise
from random import Random

from meshes import a_mesh

from masche.testing.simulated_zones import Cost, Second, Server, Simulation, mesh_of

USUAL_US, SLOW_US = 2_000.0, 200_000.0


def servers(capacity: float = 0.0, **counts: int) -> list[Server]:
    return [
        Server(name=f"shop/orders-{zone}{number}", zone=zone, capacity=capacity)
        for zone, count in counts.items()
        for number in range(count)
    ]


def simulated(
    instances: list[Server], callers: dict[str, int], network: Cost, *, gateways: str = "", rate: float = 20.0
) -> Simulation:
    mesh = a_mesh(mesh_of(instances, callers, [*gateways]))
    return Simulation(mesh=mesh, servers=instances, callers=callers, rate=rate, network_us=network)


def slow_link(begin: float, end: float) -> Cost:
    """The link between a and b is slow from begin to end."""

    def network(source: str, target: str, now: float) -> float:
        if source == target:
            return 100.0
        return SLOW_US if {source, target} == {"a", "b"} and begin <= now < end else USUAL_US

    return network


def of_a(simulation: Simulation) -> list[Second]:
    return [second for second in simulation.seconds if second.zone == "a" and second.intended]


def directly_to_b(second: Second) -> float:
    return second.intended.get(("b", ""), 0.0)


def p99_ms(seconds: list[Second]) -> float:
    every = sorted(latency for second in seconds for latency in second.latencies)
    return every[int(0.99 * len(every))] / 1000


def turns(seconds: list[Second], zone: str = "b") -> int:
    shares = [second.intended.get((zone, ""), 0.0) for second in seconds]
    steps = [after - before for before, after in pairwise(shares) if abs(after - before) >= 0.02]
    return sum(one * other < 0 for one, other in pairwise(steps))


def test_a_slow_route_is_left_within_five_seconds_and_taken_again_within_ten():
    seconds = of_a(simulated(servers(b=3, c=3), {"a": 10}, slow_link(10, 30)).run(42))
    assert all(directly_to_b(each) < 0.02 for each in seconds if 15 <= each.at < 30)
    assert all(directly_to_b(each) > 0.45 for each in seconds if each.at >= 40)
    assert p99_ms([each for each in seconds if 15 <= each.at < 30]) <= 1.3 * p99_ms(
        [each for each in seconds if each.at < 10]
    )
    assert turns(seconds) == 1


def test_a_detour_is_taken_within_six_seconds_and_left_within_ten():
    simulation = simulated(servers(b=3), {"a": 10, "c": 3}, slow_link(10, 30), gateways="c").run(42)
    seconds = of_a(simulation)
    assert all(each.intended.get(("b", "c"), 0.0) > 0.99 for each in seconds if 16 <= each.at < 30)
    assert all(directly_to_b(each) == 1.0 for each in seconds if each.at >= 40)
    assert turns(seconds) == 1


def test_a_dead_route_is_left_within_five_seconds():
    simulation = simulated(servers(b=3, c=3), {"a": 10}, slow_link(0, 0))
    simulation.loss = lambda source, target, now: float({source, target} == {"a", "b"} and now >= 10)
    seconds = of_a(simulation.run(25))
    assert all(directly_to_b(each) < 0.02 for each in seconds if each.at >= 15)


def test_ten_minutes_at_the_threshold_do_not_flap():
    chance = Random(5)
    wobble = [14_000.0 * chance.lognormvariate(0.0, 0.2) for _ in range(601)]

    def network(source: str, target: str, now: float) -> float:
        if source == target:
            return 100.0
        return 6_000.0 if "c" in {source, target} else wobble[int(now)]

    seconds = of_a(simulated(servers(b=2, c=2), {"a": 5}, network, rate=10.0).run(600))
    assert turns(seconds) <= 1


def test_zones_that_all_steer_at_once_come_to_rest():
    zones = "abcdef"
    counts = {zone: 1 + 2 * (number % 2) for number, zone in enumerate(zones)}
    instances = servers(capacity=45.0, **counts)
    simulation = simulated(instances, dict.fromkeys(zones, 5), slow_link(10, 40), rate=10.0).run(75)
    for zone in zones:
        seconds = [second for second in simulation.seconds if second.zone == zone and second.intended]
        assert all(turns(seconds, other) <= 2 for other in zones)
        assert all(turns([second for second in seconds if second.at >= 50], other) == 0 for other in zones)
    assert sum(second.lost for second in simulation.seconds) == 0
