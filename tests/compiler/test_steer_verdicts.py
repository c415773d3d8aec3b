"""Ejections that callers share."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from masche.compiler.steer.moves import MoveKind
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.standing import Admission
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.compiler.steer.weights import PROBE
from masche.model.refs import PortRef
from masche.model.view import OutlierEjection, Traffic

PORT = PortRef("shop", "orders", 80)
KEY = (PORT, "")


def terrain(names: str = "abcd", percent: int = 50) -> Terrain:
    traffic = Traffic(outlier=OutlierEjection(max_ejected_percent=percent, base_ejection=5.0))
    return Terrain(ports={PORT: Ground(sites=tuple(Site(name, "") for name in names), traffic=traffic)})


def well(name: str, caller: str, answers: int = 20) -> Seen:
    return Seen(workload=name, caller=caller, answers=answers, latency_us=2000.0)


def cut_off(name: str, caller: str) -> Seen:
    return Seen(workload=name, caller=caller, errors=5, is_ejected=True)


def sound(caller: str, names: str) -> list[Seen]:
    return [well(name, caller) for name in names]


def states(steersman: Steersman) -> dict[str, Admission]:
    return {each.workload: each.state for each in steersman.instances(PORT)}


def test_an_ejection_seen_by_one_caller_is_offered_to_the_others():
    steersman = Steersman()
    steersman.saw(KEY, [*sound("one", "bcd"), *sound("two", "bcd"), cut_off("a", "one")], now=1.0)
    decision = steersman.steer(terrain(), now=1.0)
    assert decision.steering is not None
    assert decision.steering.steers[KEY].ejected == {"a"}
    [move] = decision.moves
    assert move.kind is MoveKind.EJECTED
    assert move.sentence == ("a is taken off for 5 s, because a caller cut it off and nobody else has answers from it")


def test_the_recent_success_of_another_caller_is_a_veto():
    steersman = Steersman()
    steersman.saw(KEY, [*sound("one", "bcd"), *sound("two", "abcd"), cut_off("a", "one")], now=1.0)
    steersman.steer(terrain(), now=1.0)
    assert states(steersman)["a"] is Admission.ADMITTED


def test_three_callers_outvote_one():
    steersman = Steersman()
    seens = [each for caller in ("one", "two", "three") for each in (*sound(caller, "bcd"), cut_off("a", caller))]
    steersman.saw(KEY, [*seens, *sound("four", "abcd")], now=1.0)
    steersman.steer(terrain(), now=1.0)
    assert states(steersman)["a"] is Admission.EJECTED


ZONED = Terrain(
    ports={PORT: Ground(sites=tuple(Site(f"{zone}{number}", zone) for zone in "ab" for number in "12"))},
    gateways=frozenset("c"),
    callers={"a": 4, "b": 1, "c": 1},
)


def zoned(name: str, caller: str, *, via: str = "", is_dead: bool = False) -> Seen:
    answers, errors = (0, 5) if is_dead else (50, 0)
    return Seen(
        workload=name, zone=name[0], via=via, caller=caller, answers=answers, errors=errors, latency_us=2000.0,
        is_ejected=is_dead,
    )  # fmt: skip


def moves_after(*seens: Seen, at_home: bool = True) -> list[MoveKind]:
    """What is decided of instances when four callers in zone a see this, and one in zone b is answered by everyone."""
    steersman = Steersman()
    for number in range(4):
        steersman.saw((PORT, "a"), [replace(each, caller=f"web-a{number}") for each in seens], now=1.0)
    if at_home:
        steersman.saw((PORT, "b"), [zoned(name, "web-b") for name in ("a1", "a2", "b1", "b2")], now=1.0)
    return [move.kind for move in steersman.steer(ZONED, now=1.0).moves if move.kind is MoveKind.EJECTED]


def test_a_dead_link_takes_no_instance_from_the_callers_of_its_own_zone():
    """Four callers who cannot reach zone b say nothing of b's instances, which answer b's own caller."""
    seens = [zoned(name, "", is_dead=name[0] == "b") for name in ("a1", "a2", "b1", "b2")]
    assert moves_after(*seens) == []
    assert moves_after(*seens, at_home=False) == [MoveKind.EJECTED] * 2, "while nobody pleads they are taken off"


def test_a_dead_gateway_takes_off_nobody_behind_it():
    direct = [zoned(name, "") for name in ("a1", "a2", "b1", "b2")]
    carried = [zoned(name, "", via="c", is_dead=True) for name in ("b1", "b2")]
    assert moves_after(*direct, *carried, at_home=False) == []


def test_an_instance_that_answers_by_a_detour_is_not_taken_off():
    direct = [zoned(name, "", is_dead=name[0] == "b") for name in ("a1", "a2", "b1", "b2")]
    carried = [zoned(name, "", via="c") for name in ("b1", "b2")]
    assert moves_after(*direct, *carried, at_home=False) == []


def test_an_instance_that_neither_zone_reaches_is_taken_off():
    steersman = Steersman()
    for zone in "ab":
        seens = [zoned(name, f"web-{zone}", is_dead=name == "b1") for name in ("a1", "a2", "b1", "b2")]
        steersman.saw((PORT, zone), seens, now=1.0)
    [move] = steersman.steer(ZONED, now=1.0).moves
    assert move.sentence == "b1 is taken off for 1 s, because 2 callers cut it off and nobody else has answers from it"


def test_a_caller_that_cuts_off_most_of_what_it_calls_has_a_bad_way_itself():
    steersman = Steersman()
    steersman.saw(KEY, [*(cut_off(name, "one") for name in "abc"), well("d", "one")], now=1.0)
    steersman.steer(terrain(), now=1.0)
    assert set(states(steersman).values()) == {Admission.ADMITTED}


def test_an_ejection_ends_and_good_answers_readmit():
    steersman = Steersman()
    steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=1.0)
    steersman.steer(terrain(), now=1.0)
    for second in range(2, 6):
        steersman.saw(KEY, sound("one", "bcd"), now=float(second))
        steersman.steer(terrain(), now=float(second))
    assert states(steersman)["a"] is Admission.EJECTED
    decision = steersman.steer(terrain(), now=6.0)
    assert states(steersman)["a"] is Admission.PROBING
    assert decision.steering is not None
    assert dict(decision.steering.steers[KEY].weights)["a"] == PROBE
    steersman.saw(KEY, [*sound("one", "bcd"), well("a", "two", 3)], now=7.0)
    steersman.steer(terrain(), now=7.0)
    assert states(steersman)["a"] is Admission.ADMITTED


def test_an_instance_that_fails_its_probing_is_taken_off_for_longer():
    steersman = Steersman()
    for at in (1.0, 6.0):
        steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=at)
        steersman.steer(terrain(), now=at)
    steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=7.0)
    steersman.steer(terrain(), now=7.0)
    [standing] = [each for each in steersman.instances(PORT) if each.workload == "a"]
    assert (standing.state, standing.until) == (Admission.EJECTED, 17.0)
    assert standing.reason == "a caller cut it off and nobody else has answers from it"


def test_a_verdict_is_judged_at_once_but_weights_only_when_it_is_time():
    steersman = Steersman()
    steersman.saw(KEY, sound("one", "abcd"), now=1.0)
    steersman.steer(terrain(), now=1.0)
    late = Seen(workload="b", caller="one", answers=100, latency_us=40_000.0)
    steersman.saw(KEY, [*sound("one", "cd"), late, cut_off("a", "one")], now=1.1)
    steersman.steer(terrain(), now=1.1)
    found = {each.workload: (each.state, each.weight) for each in steersman.instances(PORT)}
    assert found["b"] == (Admission.ADMITTED, 100)
    steersman.steer(terrain(), now=2.0)
    assert next(each.weight for each in steersman.instances(PORT) if each.workload == "b") < 100


def test_an_instance_that_answers_far_later_than_the_others_is_taken_off():
    steersman = Steersman()
    for second in range(1, 5):
        late = Seen(workload="a", caller="one", answers=20, latency_us=900_000.0)
        steersman.saw(KEY, [*sound("one", "bcd"), late], now=float(second))
        decision = steersman.steer(terrain(), now=float(second))
        if states(steersman)["a"] is Admission.EJECTED:
            break
    assert second == 3
    assert "450x the median of the others" in " ".join(move.sentence for move in decision.moves)


SIGHTS = st.builds(
    Seen,
    workload=st.sampled_from("abcdef"),
    caller=st.sampled_from(["one", "two", "three"]),
    answers=st.integers(0, 50),
    errors=st.integers(0, 50),
    latency_us=st.floats(0.0, 5e6),
    is_ejected=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(SIGHTS, max_size=8), max_size=6), st.integers(0, 100), st.integers(1, 6))
def test_never_more_than_the_allowed_share_is_ejected_and_never_the_last(
    seconds: list[list[Seen]], percent: int, count: int
):
    steersman, names = Steersman(), "abcdef"[:count]
    for now, seens in enumerate(seconds, 1):
        steersman.saw(KEY, seens, now=float(now))
        decision = steersman.steer(terrain(names, percent), now=float(now))
        if decision.steering and KEY in decision.steering.steers:
            ejected = decision.steering.steers[KEY].ejected & set(names)
            assert len(ejected) <= count * percent // 100
            assert len(ejected) < count


def test_an_instance_that_is_readmitted_has_half_of_a_fair_share_at_once():
    steersman = Steersman()
    steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=1.0)
    steersman.steer(terrain(), now=1.0)
    for second in (6, 7):
        more = [well("a", "two", 3)] if second == 7 else []
        steersman.saw(KEY, [*sound("one", "bcd"), *more], now=float(second))
        steersman.steer(terrain(), now=float(second))
    [standing] = [each for each in steersman.instances(PORT) if each.workload == "a"]
    assert standing.state is Admission.ADMITTED
    assert standing.weight >= 50


def test_probing_ends_at_the_second_failure_and_the_next_ejection_is_longer():
    steersman = Steersman()
    steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=1.0)
    steersman.steer(terrain(), now=1.0)
    steersman.saw(KEY, sound("one", "bcd"), now=6.0)
    steersman.steer(terrain(), now=6.0)
    assert states(steersman)["a"] is Admission.PROBING
    failing = Seen(workload="a", caller="one", errors=2)
    steersman.saw(KEY, [*sound("one", "bcd"), failing], now=7.0)
    decision = steersman.steer(terrain(), now=7.0)
    assert [move.sentence for move in decision.moves] == ["a is taken off for 10 s, because it still fails"]


# -- who is slow, and no more than that -------------------------------------------------------------------------------


def late(name: str, caller: str, answers: int = 20, milliseconds: float = 400.0) -> Seen:
    return Seen(workload=name, caller=caller, answers=answers, latency_us=1000.0 * milliseconds)


def slow_one_taken_off() -> tuple[Steersman, float]:
    """``a`` answers, 200 times as late as the others, and is taken off for it."""
    steersman, now = Steersman(), 0.0
    while states(steersman).get("a") is not Admission.EJECTED:
        now += 0.5
        steersman.saw(KEY, [*sound("one", "bcd"), late("a", "one")], now=now)
        steersman.steer(terrain(), now=now)
        assert now < 10.0
    return steersman, now


def probe(steersman: Steersman, seens: list[Seen], *, now: float) -> str:
    """Go on until its time off is served and it was probed so; return what was said of it last."""
    began, said = now, ""
    while states(steersman)["a"] is not Admission.PROBING:
        now += 0.5
        steersman.saw(KEY, sound("one", "bcd"), now=now)
        steersman.steer(terrain(), now=now)
        assert now - began < 60.0
    while states(steersman)["a"] is Admission.PROBING:
        now += 0.5
        steersman.saw(KEY, [*sound("one", "bcd"), *seens], now=now)
        said = next((each.sentence for each in steersman.steer(terrain(), now=now).moves if each.about == "a"), said)
        assert now - began < 60.0
    return said


def test_who_was_slow_is_not_readmitted_by_answers_that_are_as_late_as_before():
    steersman, now = slow_one_taken_off()
    assert probe(steersman, [late("a", "one", answers=2)], now=now) == (
        "a is taken off for 10 s, because it still takes 400 ms"
    )


def test_one_late_answer_is_enough_when_no_other_comes_while_it_is_probed():
    steersman, now = slow_one_taken_off()
    assert "it still takes 400 ms" in probe(steersman, [late("a", "one", answers=1)], now=now)


def test_who_was_slow_is_readmitted_by_quick_answers():
    steersman, now = slow_one_taken_off()
    assert probe(steersman, [well("a", "one", answers=2)], now=now).startswith("a is back among the instances")


def test_who_was_slow_is_readmitted_when_the_others_have_become_as_slow():
    steersman, now = slow_one_taken_off()
    while states(steersman)["a"] is not Admission.ADMITTED:
        now += 0.5
        every = [late(name, "one") for name in "bcd"]
        probes = [late("a", "one", answers=2)] if states(steersman)["a"] is Admission.PROBING else []
        steersman.saw(KEY, [*every, *probes], now=now)
        steersman.steer(terrain(), now=now)
        assert now < 60.0


def test_who_is_readmitted_because_nobody_asked_it_begins_with_the_share_of_a_probe():
    steersman, now = slow_one_taken_off()
    while states(steersman)["a"] is not Admission.ADMITTED:
        now += 0.5
        steersman.saw(KEY, sound("one", "bcd"), now=now)
        steersman.steer(terrain(), now=now)
        assert now < 60.0
    [standing] = [each for each in steersman.instances(PORT) if each.workload == "a"]
    assert standing.weight <= 2 * PROBE


def test_where_many_calls_are_made_who_is_probed_gets_a_few_a_second_and_no_twentieth_of_a_fair_share():
    """Each probe may be lost, and ten a second tell no more than two."""
    for answers, weight in ((20, PROBE), (90, 2), (1000, 1)):
        steersman = Steersman()
        for second in range(1, 22):
            seens = [well(name, "one", answers) for name in "bcd"]
            seens += [well("a", "one", answers)] if second < 16 else [cut_off("a", "one")] * (second == 16)
            steersman.saw(KEY, seens, now=float(second))
            decision = steersman.steer(terrain(), now=float(second))
        assert states(steersman)["a"] is Admission.PROBING
        assert decision.steering is not None
        assert dict(decision.steering.steers[KEY].weights)["a"] == weight
