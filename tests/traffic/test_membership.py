"""Who may be called, and with which share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.traffic.membership import Endpoint, Health, Membership, Rules, SlowStart
from masche.traffic.zones import Zones

HEALTHS = st.sampled_from(Health)
ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        id=st.sampled_from("abcdefghij"),
        zone=st.sampled_from("xyz"),
        weight=st.floats(0.1, 10),
        health=HEALTHS,
        admitted_at=st.floats(0, 100),
    ),
    unique_by=lambda each: each.id,
)
RULES = st.builds(
    Rules,
    slow_start=st.builds(SlowStart, window=st.floats(0, 60)),
    panic_threshold=st.floats(0, 1),
    zones=st.none() | st.builds(Zones, own=st.sampled_from("wxyz"), floor=st.floats(0, 0.5)),
)


def shares(membership: Membership, rules: Rules | None = None, now: float = 0.0) -> dict[str, float]:
    found = membership.candidates(rules or Rules(), now=now)
    return {each.id: share for each, share in zip(found.endpoints, found.shares, strict=True)}


@given(endpoints=ENDPOINTS, rules=RULES, now=st.floats(0, 200))
def test_somebody_may_be_called_while_there_is_an_endpoint_and_shares_sum_up(
    endpoints: list[Endpoint], rules: Rules, now: float
) -> None:
    found = Membership.of(endpoints).candidates(rules, now=now)
    assert (len(found) > 0) == (len(endpoints) > 0)
    assert not endpoints or sum(found.shares) == pytest.approx(1)
    assert all(share > 0 for share in found.shares)
    assert found == Membership.of(reversed(endpoints)).candidates(rules, now=now), "equal in, equal out"
    if not found.is_panicking:
        assert all(each.health is Health.ADMITTED for each in found.endpoints)


@given(endpoints=ENDPOINTS, now=st.floats(100, 200))
def test_nothing_changed_is_the_same_object(endpoints: list[Endpoint], now: float) -> None:
    membership = Membership.of(endpoints)
    assert membership.updated(reversed(endpoints), now=now) is membership


def test_who_stays_keeps_its_time_and_who_comes_back_begins_again() -> None:
    first = Membership().updated([Endpoint(id="a"), Endpoint(id="b")], now=1.0)
    ejected = first.updated([Endpoint(id="a", health=Health.EJECTED), Endpoint(id="b")], now=5.0)
    back = ejected.updated([Endpoint(id="a"), Endpoint(id="b")], now=9.0)
    assert [each.admitted_at for each in first.endpoints] == [1.0, 1.0]
    assert [each.admitted_at for each in back.endpoints] == [9.0, 1.0]


def test_an_id_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Membership.of([Endpoint(id="a"), Endpoint(id="a", zone="x")])


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Endpoint(id="a", weight=0.0)


def test_a_slow_start_from_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="minimum above 0"):
        SlowStart(window=10.0, minimum=0.0)


def test_an_endpoint_that_begins_in_the_future_has_all_of_its_weight_when_nothing_ramps() -> None:
    members = Membership.of([Endpoint(id="a", admitted_at=5.0), Endpoint(id="b")])
    assert shares(members, now=0.0) == {"a": 0.5, "b": 0.5}


def test_a_new_endpoint_begins_at_a_tenth_of_its_weight_and_grows_in_the_window() -> None:
    members = Membership.of([Endpoint(id="new", admitted_at=100.0), Endpoint(id="old", admitted_at=0.0)])
    rules = Rules(slow_start=SlowStart(window=20.0))
    ratios = [shares(members, rules, now)["new"] / shares(members, rules, now)["old"] for now in (100, 102, 110, 120)]
    assert ratios == pytest.approx([0.1, 0.1, 0.5, 1.0])
    assert members.candidates(rules, now=110).valid_until == pytest.approx(110.2)
    assert members.candidates(rules, now=120).valid_until == float("inf")


@pytest.mark.parametrize(("admitted", "is_panicking"), [(5, False), (4, True), (0, True), (10, False)])
def test_with_fewer_than_half_available_everyone_is_called_and_it_is_said(admitted: int, *, is_panicking: bool) -> None:
    members = Membership.of(
        Endpoint(id=f"i{n}", health=Health.ADMITTED if n < admitted else Health.UNHEALTHY) for n in range(10)
    )
    found = members.candidates(Rules(), now=0.0)
    assert found.is_panicking is is_panicking
    assert len(found) == (10 if is_panicking else admitted)


def test_who_leaves_is_called_only_when_nobody_else_is_left() -> None:
    leaving, ill = Endpoint(id="leaving", health=Health.DRAINING), Endpoint(id="ill", health=Health.EJECTED)
    assert list(shares(Membership.of([leaving, ill]))) == ["ill"]
    assert list(shares(Membership.of([leaving]))) == ["leaving"]


def test_the_own_zone_is_preferred_while_it_has_room() -> None:
    zones = Zones(own="x", callers={"x": 1, "y": 1})
    assert zones.shares({"x": 5, "y": 5}) == {"x": 1.0, "y": 0.0}


def test_what_the_own_zone_has_no_room_for_goes_where_room_is() -> None:
    zones = Zones(own="x", callers={"x": 2, "y": 1, "z": 1})
    assert zones.shares({"x": 1, "y": 2, "z": 1}) == pytest.approx({"x": 0.5, "y": 0.5, "z": 0.0})


def test_a_floor_leaves_the_own_zone_so_that_the_others_are_seen() -> None:
    zones = Zones(own="x", floor=0.1)
    assert zones.shares({"x": 2, "y": 1, "z": 1}) == pytest.approx({"x": 0.9, "y": 0.05, "z": 0.05})


@given(
    has=st.dictionaries(st.sampled_from("abcd"), st.floats(0.5, 50), min_size=1),
    callers=st.dictionaries(st.sampled_from("abcd"), st.floats(0.5, 50), min_size=1),
)
def test_over_all_callers_every_zone_gets_its_fair_share(has: dict[str, float], callers: dict[str, float]) -> None:
    """Envoy's rule for the spill is exact: whoever has room gets, in all, what it has room for."""
    total = sum(callers.values())
    got = dict.fromkeys(has, 0.0)
    for own, amount in callers.items():
        found = Zones(own=own, callers=callers).shares(has)
        assert sum(found.values()) == pytest.approx(1)
        for zone, share in found.items():
            got[zone] += share * amount / total
    if set(callers) <= set(has):
        assert got == pytest.approx({zone: amount / sum(has.values()) for zone, amount in has.items()})


def test_callers_that_count_nothing_are_as_if_nothing_were_known() -> None:
    has = {"x": 2.0, "y": 1.0}
    assert Zones(own="x", callers={"x": 0.0, "y": 0.0}).shares(has) == Zones(own="x").shares(has)


def test_in_panic_zones_do_not_matter() -> None:
    members = Membership.of(Endpoint(id=zone, zone=zone, health=Health.UNHEALTHY) for zone in "xy")
    assert shares(members, Rules(zones=Zones(own="x"))) == {"x": 0.5, "y": 0.5}
