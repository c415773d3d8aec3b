"""An instance that fails all its callers by the word of its own agent."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.test_steer_verdicts import KEY, PORT, cut_off, sound, states, terrain, well
from masche.compiler.steer.moves import MoveKind
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.standing import Admission
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.model.view import OutlierEjection, Traffic

WHY = "it fails whatever it is asked (GET /: status 503)"


def calm() -> Steersman:
    """A caller was answered by all of a, b, c and d."""
    steersman = Steersman()
    steersman.saw(KEY, sound("one", "abcd"), now=0.0)
    steersman.steer(terrain(), now=0.0)
    return steersman


def suffer(steersman: Steersman, names: str, *, now: float, ground: Terrain | None = None) -> list[str]:
    """Let these suffer; return what is said of it."""
    steersman.suffering = {PORT: dict.fromkeys(names, WHY)} if names else {}
    return [move.sentence for move in steersman.steer(ground or terrain(), now=now).moves]


def test_it_is_off_at_once_though_callers_had_answers_a_moment_ago():
    steersman = calm()
    assert suffer(steersman, "a", now=0.1) == [f"a is taken off until it answers again, because {WHY}"]
    assert states(steersman)["a"] is Admission.EJECTED


def test_it_is_off_in_a_look_at_which_callers_report_that_all_was_well():
    """Then it is plain that nothing moves by what they saw."""
    steersman = calm()
    for second in range(1, 6):
        seens = [replace(each, service_us=1500.0) for each in sound("one", "abcd")]
        steersman.saw(KEY, seens, now=float(second))
        suffer(steersman, "a" if second == 5 else "", now=float(second))
    assert states(steersman)["a"] is Admission.EJECTED


def test_it_stays_off_without_a_single_probing_call_for_as_long_as_it_suffers():
    steersman = calm()
    found = {states(steersman)["a"] for second in range(1, 60) if suffer(steersman, "a", now=float(second)) is not None}
    assert found == {Admission.EJECTED}


def test_it_is_back_with_a_whole_share_in_the_look_after_it_answered():
    steersman = calm()
    for second in range(1, 10):
        steersman.saw(KEY, sound("one", "bcd"), now=float(second))
        suffer(steersman, "a", now=float(second))
    steersman.suffering = {}
    decision = steersman.steer(terrain(), now=9.1)
    assert [move.kind for move in decision.moves] == [MoveKind.READMITTED]
    assert decision.steering is not None
    assert decision.steering.steers == {}


def test_who_is_off_is_let_back_when_all_suffer():
    steersman = calm()
    suffer(steersman, "a", now=0.1)
    assert suffer(steersman, "abcd", now=0.2) == ["a is back among the instances of shop/orders:80"]
    assert set(states(steersman).values()) == {Admission.ADMITTED}
    assert suffer(steersman, "abcd", now=5.0) == []


def test_what_an_outage_of_all_costs_is_held_against_nobody():
    """Who was off for its first moment has no good answers to show for it, and the others have."""
    steersman, moved = calm(), list[str]()
    suffer(steersman, "a", now=0.1)
    for second in range(1, 6):
        seens = [Seen(workload=name, caller="one", answers=10 if second == 1 else 0, errors=20) for name in "bcd"]
        steersman.saw(KEY, [*seens, Seen(workload="a", caller="one", errors=20)], now=float(second))
        moved += suffer(steersman, "abcd", now=float(second))
    for second in range(6, 12):
        steersman.saw(KEY, sound("one", "abcd"), now=float(second))
        moved += suffer(steersman, "", now=float(second))
    assert moved == ["a is back among the instances of shop/orders:80"]


def test_who_comes_and_goes_stays_away_for_longer_each_time():
    steersman, away, now = calm(), [], 1.0
    for _ in range(4):
        suffer(steersman, "a", now=now)
        left = now
        while states(steersman)["a"] is not Admission.ADMITTED:
            now += 0.5
            suffer(steersman, "", now=now)
        away.append(now - left)
        now += 0.5
    assert away == [0.5, 5.0, 15.0, 35.0]


def test_a_caller_who_still_keeps_off_it_does_not_accuse_it_at_once():
    steersman = calm()
    suffer(steersman, "a", now=1.0)
    suffer(steersman, "", now=10.0)
    steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=10.5)
    assert suffer(steersman, "", now=10.5) == []
    steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=13.0)
    assert "a caller cut it off" in suffer(steersman, "", now=13.0)[0], "but when he goes on"


def test_a_verdict_of_callers_lasts_as_long_as_it_suffers():
    steersman = calm()
    steersman.saw(KEY, [*sound("one", "bcd"), cut_off("a", "one")], now=4.0)
    suffer(steersman, "", now=4.0)
    for second in range(5, 30):
        suffer(steersman, "a", now=float(second))
    assert states(steersman)["a"] is Admission.EJECTED
    suffer(steersman, "", now=30.0)
    assert states(steersman)["a"] is Admission.ADMITTED


def test_where_more_suffer_than_may_be_off_the_service_fails_and_not_they():
    steersman = calm()
    assert suffer(steersman, "abc", now=1.0) == []
    assert set(states(steersman).values()) == {Admission.ADMITTED}


def test_where_the_others_fail_too_it_is_left():
    steersman = calm()
    steersman.saw(
        KEY, [Seen(workload=name, caller="one", answers=15, errors=5, latency_us=2e3) for name in "bcd"], now=1.0
    )
    suffer(steersman, "a", now=1.0)
    assert states(steersman)["a"] is Admission.ADMITTED


def test_a_policy_that_switches_ejection_off_holds_for_it():
    traffic = Traffic(outlier=OutlierEjection(consecutive_errors=0))
    ground = Terrain(ports={PORT: Ground(sites=tuple(Site(name, "") for name in "abcd"), traffic=traffic)})
    assert suffer(calm(), "a", now=1.0, ground=ground) == []


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcd")), st.sampled_from("abcd"), st.booleans()), max_size=25))
@settings(max_examples=200)
def test_never_more_than_the_share_is_off_whoever_suffers_and_whoever_is_accused(story):
    steersman = Steersman()
    for second, (suffering, name, is_cut_off) in enumerate(story):
        seen = cut_off(name, "one") if is_cut_off else well(name, "one")
        steersman.saw(KEY, [*sound("two", "ab"), seen], now=float(second))
        suffer(steersman, "".join(sorted(suffering)), now=float(second))
        off = [each for each in states(steersman).values() if each is not Admission.ADMITTED]
        assert len(off) <= 2
