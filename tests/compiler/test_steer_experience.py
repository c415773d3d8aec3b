"""A zone is judged by what its callers get there, once weights and ejections within it are in force."""

from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.model.refs import PortRef
from masche.model.steering import Steer, Steering

PORT = PortRef("shop", "orders", 80)


def seen(site: Site, network_us: float, service_us: float, calls: int) -> Seen:
    latency = network_us + service_us
    return Seen(
        workload=site.workload, zone=site.zone, caller="web", answers=calls, service_us=service_us, latency_us=latency
    )


def test_a_zone_with_one_sound_instance_among_a_slow_and_a_failing_one_keeps_its_calls():
    """What counts is what callers get once the slow and the failing one hardly take part any more."""
    sites = tuple(Site(f"shop/orders-{name}", name[0]) for name in ("a0", "a1", "a2", "b0", "b1", "b2"))
    ground = Terrain(ports={PORT: Ground(sites=sites)}, callers={"a": 5, "b": 5})
    steersman, steering, sentences = Steersman(), Steering(), list[str]()
    for now in range(60):
        steer = steering.steers.get((PORT, "a"), Steer())
        weights, shares = dict(steer.weights), dict(steer.zones) or {"a": 1000, "b": 10}
        seens: list[Seen] = []
        for site in sites:
            weight = 0 if site.workload in steer.ejected else weights.get(site.workload, 100)
            calls = round(0.1 * shares[site.zone] * weight / 100)
            fails = site.workload == "shop/orders-a2" and now >= 10
            service = 40_000.0 if site.workload == "shop/orders-a1" and now >= 10 else 1000.0
            network = 100.0 if site.zone == "a" else 2000.0
            if calls and fails:
                seens.append(Seen(workload=site.workload, zone=site.zone, caller="web", errors=calls))
            elif calls:
                seens.append(seen(site, network, service, calls))
        steersman.saw((PORT, "a"), seens, now=float(now))
        decision = steersman.steer(ground, now=float(now))
        steering = decision.steering or steering
        sentences += (move.sentence for move in decision.moves if "moved" in move.sentence)
    shares = dict(steersman.shares(PORT)["a"])
    assert not shares or shares["a"] > 900
    assert not [sentence for sentence in sentences if "0." in sentence.partition("ms, ")[2]]
