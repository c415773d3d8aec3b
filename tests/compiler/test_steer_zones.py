"""Slow routes: where the calls of a zone go, and by which way."""

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from masche.compiler.steer.outlook import Outlook, ZoneCost
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.compiler.steer.zones import Spread
from masche.model.refs import PortRef
from masche.model.steering import Steering
from masche.model.view import LocalityRules, SteeringMode, Traffic

PORT = PortRef("shop", "orders", 80)
SITES = tuple(Site(f"shop/orders-{zone}{number}", zone) for zone in "bc" for number in range(3))


def terrain(sites: tuple[Site, ...] = SITES, gateways: str = "", **traffic: object) -> Terrain:
    ground = Ground(sites=sites, traffic=Traffic(**traffic))  # type: ignore[arg-type] # the fields of a Traffic
    return Terrain(ports={PORT: ground}, gateways=frozenset(gateways), callers={"a": 5})


def seen(site: Site, network_us: float, service_us: float = 2000.0, **more: object) -> Seen:
    made: dict[str, object] = {"answers": 20, "service_us": service_us, **more}
    latency = network_us + service_us
    return Seen(workload=site.workload, zone=site.zone, latency_us=latency, **made)  # type: ignore[arg-type] # the fields of a Seen


def run(
    steersman: Steersman, ground: Terrain, network: dict[str, float], seconds: range, **more: object
) -> tuple[Steering | None, list[str]]:
    """Report these network times once a second; return the last Steering and all sentences."""
    last, sentences = None, list[str]()
    for now in seconds:
        sites = ground.ports[PORT].sites
        seens = [seen(site, network[site.zone], **more) for site in sites]  # type: ignore[arg-type] # the fields of a Seen
        steersman.saw((PORT, "a"), seens, now=float(now))
        decision = steersman.steer(ground, now=float(now))
        last = decision.steering or last
        sentences += (move.sentence for move in decision.moves)
    return last, sentences


def test_a_slow_route_is_left_for_another_zone_and_the_sentence_says_why():
    steersman, ground = Steersman(), terrain()
    run(steersman, ground, {"b": 2000.0, "c": 2000.0}, range(10))
    steering, sentences = run(steersman, ground, {"b": 60_000.0, "c": 2000.0}, range(10, 16))
    assert steering is not None
    shares = dict(steering.steers[PORT, "a"].zones)
    assert shares["b"] < 10
    assert sum(shares.values()) == 1000
    assert sentences[0].startswith("shop/orders: ")
    assert "of zone a moved from b to c, because a->b takes 62 ms, 15.5x a->c, for" in sentences[0]


def test_a_slow_server_is_not_a_slow_route():
    steersman, ground = Steersman(), terrain()
    for now in range(10):
        seens = [seen(site, 2000.0, 90_000.0 if site.workload == "shop/orders-b0" else 2000.0) for site in SITES]
        steersman.saw((PORT, "a"), seens, now=float(now))
        steersman.steer(ground, now=float(now))
    assert all(each.network_us < 3000 for each in steersman.links())
    assert dict(steersman.shares(PORT)) == {"a": ()}
    weights = {each.workload: each.weight for each in steersman.instances(PORT)}
    assert weights["shop/orders-b0"] < 10
    assert weights["shop/orders-b1"] == weights["shop/orders-c0"] == 100


def test_a_peer_without_service_time_is_judged_by_the_round_trip_of_tcp():
    steersman, ground = Steersman(), terrain()
    for now in range(10):
        bad = 60_000.0 if now >= 5 else 2000.0
        seens = [
            Seen(workload=each.workload, zone=each.zone, answers=20, latency_us=rtt + 2000.0, rtt_us=rtt)
            for each in SITES
            for rtt in [bad if each.zone == "b" else 2000.0]
        ]
        steersman.saw((PORT, "a"), seens, now=float(now))
        steersman.steer(ground, now=float(now))
    assert dict(steersman.shares(PORT)["a"])["b"] < 10


def test_traffic_is_back_within_ten_seconds_after_the_route_healed():
    steersman, ground = Steersman(), terrain()
    run(steersman, ground, {"b": 2000.0, "c": 2000.0}, range(5))
    run(steersman, ground, {"b": 200_000.0, "c": 2000.0}, range(5, 40))
    steering, sentences = run(steersman, ground, {"b": 2000.0, "c": 2000.0}, range(40, 50), answers=1)
    assert steering is not None
    assert (PORT, "a") not in steering.steers
    assert sentences[-1] == "shop/orders: 50 % of zone a moved from c to b, because a->b takes 4 ms again"


def detoured(
    sites: tuple[Site, ...], direct_us: float, by_detour_us: float, *, answers: int = 20
) -> tuple[list[int], list[str]]:
    """The shares of detours that are published after the direct way to b got slow, and what is said."""
    steersman, ground = Steersman(), terrain(sites, gateways="c")
    run(steersman, ground, {site.zone: 2000.0 for site in sites}, range(5), answers=answers)
    shares: list[int] = []
    sentences: list[str] = []
    for now in range(5, 15):
        seens = [seen(site, direct_us if site.zone == "b" else 2000.0, answers=answers) for site in sites]
        if shares and shares[-1]:
            seens += [seen(site, by_detour_us, via="c", answers=1) for site in sites if site.zone == "b"]
        steersman.saw((PORT, "a"), seens, now=float(now))
        decision = steersman.steer(ground, now=float(now))
        sentences += (move.sentence for move in decision.moves)
        if decision.steering:
            steer = decision.steering.steers[PORT, "a"]
            assert all(each.zone == "b" and each.via == "c" for each in steer.detours)
            shares.append(sum(each.share for each in steer.detours))
    return shares, sentences


ONLY_B = tuple(site for site in SITES if site.zone == "b")


def test_with_one_zone_left_a_detour_is_tried_with_few_calls_and_then_taken():
    shares, _ = detoured(ONLY_B, 200_000.0, 4000.0)
    assert shares == [10, 100]


def test_a_trial_takes_no_more_calls_than_one_report_needs():
    shares, _ = detoured(ONLY_B, 200_000.0, 4000.0, answers=50)
    assert shares == [4, 100]
    shares, _ = detoured(ONLY_B, 200_000.0, 4000.0, answers=500)
    assert shares == [2, 100]


def test_a_detour_that_is_only_somewhat_faster_is_taken_by_steps():
    shares, _ = detoured(ONLY_B, 12_000.0, 4000.0)
    assert shares == [10, 50, 100]


def test_a_trial_ends_when_other_zones_took_the_calls_meanwhile():
    shares, sentences = detoured(SITES, 200_000.0, 4000.0)
    assert max(shares) == 10
    assert shares[-1] == 0
    assert sentences[-1] == (
        "shop/orders: calls of zone a to b no longer pass the gateway of c, because other zones serve those calls"
    )


def test_a_detour_that_is_no_faster_is_given_up():
    steersman, only_b = Steersman(), tuple(site for site in SITES if site.zone == "b")
    ground = terrain(only_b, gateways="c")
    run(steersman, ground, {"b": 2000.0}, range(5))
    sentences: list[str] = []
    for now in range(5, 15):
        seens = [seen(site, 50_000.0) for site in only_b]
        seens += [seen(site, 45_000.0, via="c", answers=1) for site in only_b]
        steersman.saw((PORT, "a"), seens, now=float(now))
        sentences += (move.sentence for move in steersman.steer(ground, now=float(now)).moves)
    assert sentences[-1] == (
        "shop/orders: calls of zone a to b no longer pass the gateway of c, because that is not clearly faster"
    )


def test_a_detour_that_was_given_up_is_tried_again_when_the_direct_way_got_worse():
    steersman, ground = Steersman(), terrain(ONLY_B, gateways="c")
    run(steersman, ground, {"b": 2000.0}, range(5))
    sentences: list[str] = []
    for now in range(5, 25):
        seens = [seen(site, 50_000.0 if now < 12 else 300_000.0) for site in ONLY_B]
        seens += [seen(site, 45_000.0, via="c", answers=1) for site in ONLY_B]
        steersman.saw((PORT, "a"), seens, now=float(now))
        sentences += (move.sentence for move in steersman.steer(ground, now=float(now)).moves)
    assert any("not clearly faster" in each for each in sentences)
    assert "100 % of the calls of zone a to b moved to the gateway of c" in sentences[-1]


def test_where_detours_are_not_allowed_none_is_tried():
    steersman, only_b = Steersman(), tuple(site for site in SITES if site.zone == "b")
    ground = terrain(only_b, gateways="c", locality=LocalityRules(detours=False))
    run(steersman, ground, {"b": 2000.0}, range(5))
    assert run(steersman, ground, {"b": 200_000.0}, range(5, 15)) == (None, [])


def test_where_calls_may_not_spill_no_share_moves():
    steersman, ground = Steersman(), terrain(locality=LocalityRules(spills=False))
    run(steersman, ground, {"b": 2000.0, "c": 2000.0}, range(5))
    assert run(steersman, ground, {"b": 200_000.0, "c": 2000.0}, range(5, 15)) == (None, [])


def test_switched_off_nothing_is_said_and_nothing_moves():
    steersman, ground = Steersman(), terrain(steering=SteeringMode.OFF)
    assert run(steersman, ground, {"b": 200_000.0, "c": 2000.0}, range(15)) == (None, [])


def test_switching_off_takes_back_what_was_steered():
    steersman, ground = Steersman(), terrain()
    run(steersman, ground, {"b": 2000.0, "c": 2000.0}, range(5))
    run(steersman, ground, {"b": 200_000.0, "c": 2000.0}, range(5, 15))
    decision = steersman.steer(terrain(steering=SteeringMode.OFF), now=16.0)
    assert decision.steering == Steering()


def test_a_dry_run_says_what_would_move_and_moves_nothing():
    steersman, ground = Steersman(), terrain(steering=SteeringMode.DRY_RUN)
    run(steersman, ground, {"b": 2000.0, "c": 2000.0}, range(5))
    moves = list[bool]()
    for now in range(5, 15):
        seens = [seen(site, 200_000.0 if site.zone == "b" else 2000.0) for site in SITES]
        steersman.saw((PORT, "a"), seens, now=float(now))
        decision = steersman.steer(ground, now=float(now))
        assert decision.steering is None
        moves += (move.is_dry_run for move in decision.moves)
    assert moves
    assert all(moves)


ANY_SITES = tuple(Site(f"shop/orders-{zone}{number}", zone) for zone in "abc" for number in range(2))
SEENS = st.builds(
    seen,
    st.sampled_from(ANY_SITES),
    st.floats(0.0, 5e6),
    st.floats(0.0, 5e6),
    via=st.sampled_from(["", "b", "c"]),
    caller=st.sampled_from(["one", "two"]),
    answers=st.integers(0, 100),
    errors=st.integers(0, 30),
    timeouts=st.integers(0, 30),
    active=st.integers(0, 500),
    is_ejected=st.booleans(),
)
SECONDS = st.lists(st.lists(st.tuples(st.sampled_from("abc"), SEENS), max_size=8), max_size=6)


@settings(max_examples=50, deadline=None)
@given(SECONDS)
def test_whatever_is_seen_all_bounds_hold(seconds: list[list[tuple[str, Seen]]]):
    steersman, ground = Steersman(), terrain(ANY_SITES, gateways="abc")
    for now, seens in enumerate(seconds):
        for zone, each in seens:
            steersman.saw((PORT, zone), [each], now=float(now))
        decision = steersman.steer(ground, now=float(now))
        for (_, zone), steer in (decision.steering or Steering()).steers.items():
            assert all(1 <= weight <= 100 for _, weight in steer.weights)
            assert not steer.zones or sum(share for _, share in steer.zones) == 1000
            assert not steer.zones or {to for to, share in steer.zones if share >= 1} == set("abc")
            assert all(1 <= each.share <= 100 and each.via not in {zone, each.zone, ""} for each in steer.detours)
            assert len(steer.ejected) <= 3


@settings(max_examples=50, deadline=None)
@given(SECONDS, st.randoms(use_true_random=False))
def test_the_order_of_reports_within_an_interval_does_not_matter(seconds: list[list[tuple[str, Seen]]], chance: Random):
    one, other, ground = Steersman(), Steersman(), terrain(ANY_SITES, gateways="abc")
    for now, seens in enumerate(seconds):
        shuffled = chance.sample(seens, len(seens))
        for steersman, order in ((one, seens), (other, shuffled)):
            for zone, each in order:
                steersman.saw((PORT, zone), [each], now=float(now))
        assert one.steer(ground, now=float(now)) == other.steer(ground, now=float(now))


def an_outlook(*, b_network_us: float, c_service_us: float) -> Outlook:
    """The callers of zone a can choose between b and c, and c has room for a tenth of the calls more."""
    costs = {
        "b": ZoneCost(direct_us=b_network_us + 2e3, network_us=b_network_us, usual_us=2e3, service_us=2e3),
        "c": ZoneCost(direct_us=2e3 + c_service_us, network_us=2e3, usual_us=2e3, service_us=c_service_us),
    }
    return Outlook(
        subject="shop/orders",
        zone="a",
        base={"b": 500, "c": 500},
        limits=lambda: {"b": 500.0, "c": 600.0},
        costs=costs,
        gateways=frozenset(),
        rules=LocalityRules(),
        rate=1000.0,
        taken_us={"b": 2e3, "c": c_service_us},
    )


def test_what_other_zones_may_take_falls_by_crowding_alone_and_not_without_end():
    spread, stretches = Spread(), list[float]()
    for now in range(120):
        is_crowded = now % 20 < 10
        outlook = an_outlook(
            b_network_us=2e3 if now < 10 else 2e5, c_service_us=30e3 if is_crowded and now > 10 else 2e3
        )
        spread.step(outlook, now=float(now))
        stretches.append(spread.stretch)
    after = stretches[20:]
    assert all(one >= other for one, other in pairwise(after)), after
    assert after[-1] == 1.0


def test_moves_by_small_steps_are_told_once_they_have_come_to_something():
    outlook = an_outlook(b_network_us=2e3, c_service_us=2e3)
    slow = outlook.costs["b"]._replace(service_us=12e3, direct_us=14e3)
    outlook = outlook._replace(
        base={"b": 100, "c": 900}, limits=lambda: {"b": 100.0, "c": 2000.0}, costs={**outlook.costs, "b": slow}
    )
    spread, told = Spread(), list[str]()
    steps: list[float] = [100.0]
    for now in range(60):
        told += [move.sentence for move in spread.step(outlook, now=float(now))]
        steps.append(spread.shares.get("b", 100.0))
    assert max(before - after for before, after in pairwise(steps)) < 20
    assert steps[-1] < 20
    assert len(told) >= 3
    assert all("of zone a moved from b to c, because zone b takes 14 ms" in each for each in told)
