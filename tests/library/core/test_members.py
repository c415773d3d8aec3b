"""Whom one caller may call: shares of zones, priorities and subsets, as an Envoy of the same endpoints has them."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from library.core.scripted import IDENTITY, ORDERS
from masche.library.core.members import Place, members, parted, places
from masche.library.core.ways import Way
from masche.model.told import Destination, Discovery
from masche.model.view import Cluster, Endpoints, EndpointView, Health, Locality, Protocol
from masche.traffic import membership

DESTINATION = Destination(
    name=ORDERS.path, cluster=Cluster(service=ORDERS, protocol=Protocol.HTTP, identities=(IDENTITY,))
)


def instance(number: int, weight: int = 100, health: Health = Health.HEALTHY) -> EndpointView:
    return EndpointView(address=f"10.0.0.{number}", port=80, workload=f"o-{number}", weight=weight, health=health)


def zone(name: str, *endpoints: EndpointView, priority: int = 0, weight: int = 0) -> Locality:
    return Locality(zone=name, priority=priority, endpoints=endpoints, weight=weight)


def weights(*localities: Locality, subset_size: int = 0, caller: str = "") -> dict[str, float]:
    found, _ = members([(each, DESTINATION) for each in localities], subset_size=subset_size, caller=caller)
    return {each.id.removesuffix(":80").removeprefix("10.0.0."): round(each.weight, 6) for each in found}


def test_equal_instances_weigh_one_each() -> None:
    assert weights(zone("a", instance(1), instance(2)), zone("b", instance(3))) == {"1": 1, "2": 1, "3": 1}


def test_weights_within_a_zone_are_kept() -> None:
    assert weights(zone("a", instance(1, 300), instance(2, 100))) == {"1": 1.5, "2": 0.5}


def test_a_zones_weight_is_its_share_whatever_the_number_of_its_instances() -> None:
    found = weights(zone("a", instance(1), weight=90), zone("b", instance(2), instance(3), weight=10))
    assert found == {"1": 2.7, "2": 0.15, "3": 0.15}


def test_a_zone_that_is_half_ill_keeps_less_than_its_share() -> None:
    found = weights(
        zone("a", instance(1), instance(2, health=Health.UNHEALTHY), weight=50), zone("b", instance(3), weight=50)
    )
    assert found["1"] / found["3"] == 0.7, "half of it bears 1.4 times half"


def test_the_second_priority_gets_nothing_while_the_first_is_well() -> None:
    assert weights(zone("a", instance(1)), zone("b", instance(2), priority=1)) == {"1": 1}


def test_the_second_priority_takes_what_the_first_cannot_bear() -> None:
    ill = [instance(number, health=Health.UNHEALTHY) for number in (2, 3, 4)]
    found = weights(zone("a", instance(1), *ill), zone("b", instance(9), priority=1))
    assert round(found["1"] / (found["1"] + found["9"]), 6) == 0.35, "a quarter, times 1.4"


def test_the_last_priority_takes_all_when_nobody_before_it_is_well() -> None:
    found = weights(zone("a", instance(1, health=Health.UNHEALTHY)), zone("b", instance(2), priority=1))
    assert list(found) == ["2"]


def test_when_nobody_is_well_the_first_priority_is_called() -> None:
    ill = zone("a", instance(1, health=Health.UNHEALTHY)), zone("b", instance(2, health=Health.UNHEALTHY), priority=1)
    assert list(weights(*ill)) == ["1"]


def test_who_is_leaving_or_ill_is_known_as_such() -> None:
    found, where = members(
        [
            (
                zone("a", instance(1), instance(2, health=Health.DRAINING), instance(3, health=Health.UNHEALTHY)),
                DESTINATION,
            )
        ]
    )
    states = membership.Health.ADMITTED, membership.Health.DRAINING, membership.Health.UNHEALTHY
    assert tuple(each.health for each in found) == states
    assert set(where) == {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}


def test_a_subset_is_the_callers_own_and_hardly_moves() -> None:
    everyone = [instance(number) for number in range(1, 101)]
    before = set(weights(zone("a", *everyone), subset_size=10, caller="shop/web-1"))
    assert len(before) == 10
    after = set(weights(zone("a", *everyone[1:]), subset_size=10, caller="shop/web-1"))
    assert len(before - after) <= 1
    assert before != set(weights(zone("a", *everyone), subset_size=10, caller="shop/web-2"))


def test_subsets_of_many_callers_reach_everybody_about_alike() -> None:
    everyone = zone("a", *(instance(number) for number in range(1, 21)))
    met = Counter(name for number in range(200) for name in weights(everyone, subset_size=5, caller=f"web-{number}"))
    assert len(met) == 20
    assert max(met.values()) < 2 * min(met.values())


def test_an_aggregates_members_are_tried_in_their_order() -> None:
    near, far = (Destination(name=name, cluster=DESTINATION.cluster) for name in ("near", "far"))
    both = Destination(
        name="both", cluster=DESTINATION.cluster, discovery=Discovery.AGGREGATE, members=("near", "gone", "far")
    )
    endpoints = {
        "near": Endpoints(service=ORDERS, localities=(zone("a", instance(1, health=Health.UNHEALTHY)),)),
        "far": Endpoints(service=ORDERS, localities=(zone("a", instance(2)),)),
    }
    found = places(both, destinations={"near": near, "far": far, "both": both}, endpoints=endpoints)
    assert [(each.priority, owner.name) for each, owner in found] == [(0, "near"), (1, "far")]
    assert [each.id for each in members(found)[0]] == ["10.0.0.2:80"]


def test_a_name_of_dns_is_one_instance() -> None:
    name = Destination(
        name="dns", cluster=DESTINATION.cluster, discovery=Discovery.LOGICAL_DNS, host="example.org", port=443
    )
    [(locality, _)] = places(name, destinations={}, endpoints={})
    assert [(each.address, each.port) for each in locality.endpoints] == [("example.org", 443)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 100),
            st.lists(st.tuples(st.integers(1, 1000), st.sampled_from(Health)), max_size=5),
        ),
        max_size=5,
    )
)
def test_whatever_is_told_shares_are_positive_and_somebody_is_called_when_there_is_somebody(
    told: list[tuple[int, int, list[tuple[int, Health]]]],
) -> None:
    number = iter(range(1, 200))
    localities = [
        zone(f"z{at}", *(instance(next(number), *each) for each in endpoints), priority=priority, weight=weight)
        for at, (priority, weight, endpoints) in enumerate(told)
    ]
    found, where = members([(each, DESTINATION) for each in localities])
    assert all(each.weight > 0 for each in found)
    assert {each.id for each in found} <= where.keys()
    if any(each.health is Health.HEALTHY for locality in localities for each in locality.endpoints):
        assert any(each.health is membership.Health.ADMITTED for each in found)


def test_an_instance_is_called_in_plaintext_only_in_a_cluster_that_knows_of_such() -> None:
    plain = replace(instance(1), is_mtls=False)
    knowing = replace(DESTINATION, cluster=replace(DESTINATION.cluster, has_plaintext=True))
    assert Place.of(plain, DESTINATION).is_tls
    assert not Place.of(plain, knowing).is_tls
    assert Place.of(instance(1), knowing).is_tls


CARRIED = replace(DESTINATION, east_west=("spiffe://mesh.local/ns/masche-system/sa/east-west",))


def carried(number: int, via: str = "10.0.0.99:15008") -> EndpointView:
    return replace(instance(number), via=via)


def test_a_detour_to_an_instance_is_an_endpoint_beside_the_direct_way() -> None:
    both = [(zone("b", instance(1), weight=1), CARRIED), (zone("b", carried(1), weight=9), CARRIED)]
    found, where = members(both)
    assert {each.id: round(each.weight, 6) for each in found} == {
        "10.0.0.1:80": 0.2,
        "10.0.0.1:80@10.0.0.99:15008": 1.8,
    }
    ways = {name: place.way for name, place in where.items()}
    assert ways == {"10.0.0.1:80": None, "10.0.0.1:80@10.0.0.99:15008": Way("10.0.0.99:15008", CARRIED.east_west)}
    assert [parted(name) for name in where] == [("10.0.0.1:80", ""), ("10.0.0.1:80", "10.0.0.99:15008")]


def test_nobody_is_carried_by_whom_nobody_vouches_for_nor_in_plaintext() -> None:
    plain = replace(carried(2), is_mtls=False)
    knowing = replace(CARRIED, cluster=replace(CARRIED.cluster, has_plaintext=True))
    for destination, detour in (
        (DESTINATION, carried(1)),
        (knowing, plain),
        (replace(CARRIED, is_tls=False), carried(1)),
    ):
        found, _ = members([(zone("b", instance(3), detour), destination)])
        assert [each.id for each in found] == ["10.0.0.3:80"]


def test_a_subset_has_all_ways_to_those_who_are_in_it() -> None:
    everyone = [(zone("b", *(instance(number) for number in range(9))), CARRIED)]
    detours = [(zone("b", *(carried(number) for number in range(9))), CARRIED)]
    found, _ = members([*everyone, *detours], subset_size=3, caller="web-1")
    assert len({parted(each.id)[0] for each in found}) == 3
    assert len(found) == 6
