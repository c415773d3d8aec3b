"""Callers that call few of many instances: what the control plane takes them to choose, and what it makes of that."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.meshes import a_mesh, service, workload
from masche.compiler.endpoints import endpoints
from masche.compiler.envoy.endpoints import blob
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.subsets import HELD, MOST_CHOSEN, Subsets
from masche.compiler.steer.terrain import Ground, Site, Terrain, survey
from masche.library.core.members import members
from masche.model.refs import PortRef
from masche.model.steering import NO_STEERING
from masche.model.told import Destination
from masche.model.view import Cluster, EndpointView, Locality, Protocol, Traffic
from masche.wire.decode import endpoints as decode
from masche.wire.framing import message_of

PORT = PortRef("shop", "orders", 80)
KEY = (PORT, "")
DESTINATION = Destination(
    name=PORT.path, cluster=Cluster(service=PORT, protocol=Protocol.HTTP, identities=("spiffe://mesh.local/orders",))
)


def addresses(count: int, first: int = 0) -> dict[str, str]:
    return {f"o{number}": f"10.0.{number // 200}.{number % 200}:15006" for number in range(first, first + count)}


def callers(count: int) -> list[str]:
    return [f"library~web-{number}.shop" for number in range(count)]


def settled(subsets: Subsets, names: list[str], size: int, places: dict[str, str], *, at: float = 0.0) -> int:
    """Look once a second until all is even; return how often."""
    for look in range(1, 100):
        subsets.hear(names, at=at + look)
        subsets.step(size, places, now=at + look)
        if subsets.is_even:
            return look
    raise AssertionError("it does not become even")


def loads(names: list[str], size: int, places: dict[str, str], weights: dict[str, int]) -> Counter[str]:
    """What each instance gets when every process with the library sends the same, as the library has it."""
    views = tuple(
        EndpointView(address=place.partition(":")[0], port=15006, workload="", weight=weights.get(name, 100))
        for name, place in places.items()
    )
    told = [(Locality(zone="", priority=0, endpoints=views), DESTINATION)]
    found = Counter[str]()
    for name in names:
        chosen, _ = members(told, subset_size=size, caller=name)
        total = sum(each.weight for each in chosen)
        assert len(chosen) == size
        for each in chosen:
            found[each.id] += each.weight / total
    return found


def unevenness(names: list[str], size: int, places: dict[str, str], weights: dict[str, int]) -> float:
    found = loads(names, size, places, weights)
    return max(found.values()) * len(places) / len(names)


def test_the_load_of_instances_is_even_however_uneven_the_choices_are():
    names, places, subsets = callers(60), addresses(40), Subsets()
    assert unevenness(names, 8, places, {}) > 1.3, "there is something to do"
    settled(subsets, names, 8, places)
    assert unevenness(names, 8, places, subsets.weights) <= 1.02


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(2, 40), st.integers(1, 10))
def test_it_comes_to_rest_and_is_no_less_even_than_it_was(many, instances, size):
    """Where many callers depend on the same few instances nothing can make it even."""
    names, places, subsets = callers(many), addresses(instances), Subsets()
    settled(subsets, names, size, places)
    rest = dict(subsets.weights)
    if size < instances:
        after, before = (unevenness(names, size, places, weights) for weights in (subsets.weights, {}))
        assert after <= max(1.02 * before, 1.02)
    for second in range(100, 110):
        subsets.hear(names, at=float(second))
        subsets.step(size, places, now=float(second))
    assert subsets.weights == rest


def test_a_change_is_followed_and_only_those_who_lost_an_instance_choose_anew():
    names, subsets = callers(60), Subsets()
    settled(subsets, names, 8, addresses(40))
    before = {name: set(subsets.chosen_by(name)) for name in names}
    gone = addresses(40)["o0"]
    settled(subsets, names, 8, addresses(39, first=1), at=10)
    after = {name: set(subsets.chosen_by(name)) for name in names}
    assert all(len(before[name] - after[name]) == (gone in before[name]) for name in names)
    settled(subsets, names, 8, addresses(40), at=20)
    assert {name: set(subsets.chosen_by(name)) for name in names} == before
    assert unevenness(names, 8, addresses(40), subsets.weights) <= 1.02


def test_who_calls_everywhere_is_counted_and_gives_everybody_the_same():
    names, places, subsets = callers(40), addresses(40), Subsets()
    settled(subsets, [*names, *(f"sidecar~web-{number}.shop" for number in range(40))], 8, places)
    found = loads(names, 8, places, subsets.weights)
    weight = {place: subsets.weights.get(name, 100) for name, place in places.items()}
    everywhere = 40 / sum(weight.values())
    total = {place: found[place] + everywhere * weight[place] for place in weight}
    assert max(total.values()) <= 1.02 * 80 / 40


def test_a_caller_who_has_left_is_forgotten_and_without_any_all_is_fair():
    names, places, subsets = callers(30), addresses(20), Subsets()
    settled(subsets, names, 5, places)
    assert subsets.weights
    subsets.hear(["sidecar~web-1.shop"], at=1000.0)
    subsets.step(5, places, now=1000.0 + HELD / 2)
    assert not subsets.chosen_by(names[0])
    assert not subsets.weights


def test_all_is_fair_where_the_policy_is_gone():
    names, places, subsets = callers(30), addresses(20), Subsets()
    settled(subsets, names, 5, places)
    assert subsets.weights
    subsets.step(0, places, now=31.0)
    assert not subsets.weights


def test_one_look_takes_up_a_bounded_number_of_callers():
    places, subsets = addresses(1000), Subsets()
    subsets.hear(callers(100), at=0.0)
    subsets.step(20, places, now=0.0)
    assert sum(bool(subsets.chosen_by(name)) for name in callers(100)) <= 1 + MOST_CHOSEN // 1000
    assert not subsets.weights, "and says nothing before it knows what all chose"


def test_steering_hands_it_out_with_its_own_weights():
    sites = tuple(Site(name, "") for name in addresses(20))
    ground = Ground(sites=sites, traffic=Traffic(subset_size=5), addresses=addresses(20))
    steersman = Steersman()
    for second in range(1, 8):
        seens = [
            Seen(workload=name, caller=caller, answers=5, latency_us=2000.0)
            for caller in callers(30)
            for name in addresses(20)
        ]
        steersman.saw(KEY, seens, now=float(second))
        decision = steersman.steer(Terrain(ports={PORT: ground}), now=float(second))
        if decision.steering:
            weights = dict(decision.steering.steers[KEY].weights)
    assert unevenness(callers(30), 5, addresses(20), weights) <= 1.02
    steersman.steer(Terrain(ports={PORT: Ground(sites=sites)}), now=9.0)
    decision = steersman.steer(Terrain(ports={PORT: Ground(sites=sites)}), now=10.0)
    assert steersman.steer(Terrain(ports={PORT: Ground(sites=sites)}), now=11.0).steering is None


POLICY = """---
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {name: few}
spec: {targetRefs: [{kind: Service, name: orders}], loadBalancing: {subsetting: {size: 2}}}
"""


def test_the_control_plane_knows_instances_by_the_names_by_which_the_library_chooses_them():
    spec = ", address: 10.0.0.{}, ports: [{{port: 8080, meshPort: 21000}}]"
    text = "".join(workload(f"o{number}", "orders", spec.format(number)) for number in range(1, 6))
    mesh = a_mesh(service("orders") + text.replace("address: 127.0.0.2, ", "") + POLICY)
    ground = survey(mesh, [PORT]).ports[PORT]
    told = decode.endpoints(PORT.path, message_of(blob(endpoints(mesh, NO_STEERING, PORT, ""))))
    everyone, _ = members([(each, DESTINATION) for each in told.localities])
    assert {each.id for each in everyone} == set(ground.addresses.values())
    subsets = Subsets()
    subsets.hear(callers(1), at=0.0)
    subsets.step(ground.traffic.subset_size, ground.addresses, now=0.0)
    chosen, _ = members([(each, DESTINATION) for each in told.localities], subset_size=2, caller=callers(1)[0])
    assert {each.id for each in chosen} == set(subsets.chosen_by(callers(1)[0]))
    assert (
        not survey(a_mesh(service("orders") + text.replace("address: 127.0.0.2, ", "")), [PORT]).ports[PORT].addresses
    )


def test_callers_that_came_and_went_are_forgotten_also_while_all_call_everybody():
    """A process that starts anew has another name, and this may go on for months."""
    subsets = Subsets()
    few = {f"shop/orders-{number}": f"10.0.0.{number}:80" for number in range(3)}
    for now in range(1000):
        subsets.hear([f"library~web-{now}.shop"], at=float(now))
        subsets.step(20, few, now=float(now))
    assert len(subsets._heard) <= HELD  # pyright: ignore[reportPrivateUsage] # what would grow is nowhere to be seen
