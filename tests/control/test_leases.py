"""A dead agent's workloads go after their lease; no restart, outage or partition empties a Service."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from masche.control.leases import EXPIRED, Census, Decision, Leases, MarkUnhealthy, Remove, Restore, census
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.core import Service, ServiceSpec
from masche.model.resources.meta import FrozenMap, ObjectMeta
from masche.model.resources.workload import Workload, WorkloadSpec, WorkloadState, WorkloadStatus

LEASE = 15.0


def instance(service: str, n: int) -> Name:
    return Name("shop", f"{service}-{n}")


def service(name: str, count: int) -> tuple[Name, frozenset[Name]]:
    return Name("shop", name), frozenset(instance(name, n) for n in range(count))


def shop(**services: int) -> Census:
    """Services with so many READY instances, each on a machine of its own."""
    tables = dict(service(name, count) for name, count in services.items())
    everyone = frozenset[Name]().union(*tables.values())
    return Census(leased={name: f"machine-{name.name}" for name in everyone}, services=tables, ready=everyone)


def carry_out(census: Census, decisions: tuple[Decision, ...]) -> Census:
    """What the Mesh looks like once the decisions are written."""
    for decision in decisions:
        name = decision.workload
        match decision:
            case MarkUnhealthy():
                census = replace(census, ready=census.ready - {name}, marked=census.marked | {name})
            case Restore():
                census = replace(census, ready=census.ready | {name}, marked=census.marked - {name})
            case Remove():
                census = without(census, name)
    return census


def without(census: Census, gone: Name) -> Census:
    return Census(
        leased={name: machine for name, machine in census.leased.items() if name != gone},
        services={service: members - {gone} for service, members in census.services.items()},
        ready=census.ready - {gone},
        marked=census.marked - {gone},
    )


def heard(leases: Leases, census: Census, *, now: float, silent: frozenset[Name] | set[Name] = frozenset()) -> None:
    for name, machine in census.leased.items():
        if name not in silent:
            leases.heartbeat(name, machine=machine, now=now)


def live(leases: Leases, census: Census, *, start: float, end: float, silent: set[Name], synced_since: float = 0.0):
    """Seconds pass; all but ``silent`` are heard. Returns the Census at the end and all decisions with their times."""
    done: list[tuple[float, Decision]] = []
    now = start
    while now <= end:
        heard(leases, census, now=now, silent=silent)
        verdict = leases.tick(now=now, synced_since=synced_since, census=census)
        census = carry_out(census, verdict.decisions)
        done += [(now, decision) for decision in verdict.decisions]
        now += 1.0
    return census, done


def test_a_dead_instance_is_marked_after_one_lease_and_removed_after_a_second():
    leases, world, dead = Leases(lease=LEASE), shop(orders=3), instance("orders", 1)
    heard(leases, world, now=100)
    world, done = live(leases, world, start=101, end=135, silent={dead})
    (marked_at, mark), (removed_at, removal) = done
    assert isinstance(mark, MarkUnhealthy)
    assert mark.reason == f"{EXPIRED}: machine machine-orders-1 not heard of for 15 s"
    assert marked_at == 115
    assert isinstance(removal, Remove)
    assert 15 <= removed_at - marked_at <= 16
    assert dead not in world.leased
    assert len(world.ready) == 2


def test_an_orderly_leave_is_immediate():
    leases, world = Leases(lease=LEASE), shop(orders=1)
    heard(leases, world, now=100)
    assert leases.leave(instance("orders", 0)) == Remove(workload=instance("orders", 0), reason="left in order")


def test_a_heartbeat_lifts_the_mark():
    leases, world, late = Leases(lease=LEASE), shop(orders=3), instance("orders", 1)
    heard(leases, world, now=100)
    world, _ = live(leases, world, start=101, end=120, silent={late})
    assert world.marked == {late}
    leases.heartbeat(late, machine="machine-orders-1", now=120.5)
    verdict = leases.tick(now=120.5, synced_since=0, census=world)
    assert verdict.decisions == (Restore(workload=late, reason="heard of again"),)


def test_who_appears_in_the_store_has_a_whole_lease_before_its_agent_was_heard():
    """It is committed first and counted then; a look in between, long after our start, removes nobody."""
    leases, before = Leases(lease=LEASE), shop(orders=2)
    heard(leases, before, now=1100)
    assert leases.tick(now=1100, synced_since=1000, census=before).decisions == ()
    after = shop(orders=3)
    starting = replace(after, ready=after.ready - {instance("orders", 2)})
    assert leases.tick(now=1100.1, synced_since=1000, census=starting).decisions == ()
    heard(leases, before, now=1115)
    assert leases.tick(now=1115, synced_since=1000, census=starting).decisions == ()
    heard(leases, before, now=1131)
    (gone,) = leases.tick(now=1131, synced_since=1000, census=starting).decisions
    assert gone.workload == instance("orders", 2)
    assert isinstance(gone, Remove)


def test_nothing_is_counted_before_one_whole_lease_of_being_up_and_synced():
    leases, world = Leases(lease=LEASE), shop(orders=3)
    heard(leases, world, now=1014, silent={instance("orders", 0)})
    assert leases.tick(now=1014.9, synced_since=1000, census=world).decisions == ()
    assert leases.tick(now=5000, synced_since=None, census=world).decisions == ()
    (mark,) = leases.tick(now=1015, synced_since=1000, census=world).decisions
    assert mark.workload == instance("orders", 0)
    assert "not heard of since we started" in mark.reason


def test_a_store_outage_gives_everyone_a_new_lease():
    leases, world = Leases(lease=LEASE), shop(orders=3)
    heard(leases, world, now=100)
    dead = {instance("orders", 0)}
    world, done = live(leases, world, start=101, end=214.0, silent=dead, synced_since=200)
    assert done == []
    _, done = live(leases, world, start=215.0, end=215.0, silent=dead, synced_since=200)
    assert len(done) == 1


def test_more_than_a_third_of_a_service_is_not_touched_and_a_finding_says_so():
    leases, world = Leases(lease=LEASE), shop(orders=6, other=20)
    heard(leases, world, now=100)
    silent = {instance("orders", n) for n in range(3)}
    world, done = live(leases, world, start=101, end=400, silent=silent)
    assert done == []
    (held,) = leases.tick(now=401, synced_since=0, census=world).held
    assert (held.service, len(held.expired), held.members) == (Name("shop", "orders"), 3, 6)
    assert held.why == "3 of 6 instances of shop/orders expired together: is the network cut?"


def test_a_third_of_a_service_goes():
    leases, world = Leases(lease=LEASE), shop(orders=6, other=20)
    heard(leases, world, now=100)
    silent = {instance("orders", n) for n in range(2)}
    world, _ = live(leases, world, start=101, end=140, silent=silent)
    assert not silent & world.leased.keys()


def test_more_than_a_third_of_the_mesh_is_not_touched():
    leases, world = Leases(lease=LEASE), shop(**{f"s{n}": 3 for n in range(6)})
    heard(leases, world, now=100)
    silent = {instance(f"s{n}", 0) for n in range(6)} | {instance("s0", 1)}
    world, done = live(leases, world, start=101, end=400, silent=silent)
    assert done == []
    whole, *_ = leases.tick(now=401, synced_since=0, census=world).held
    assert whole.service is None
    assert whole.why == "7 of 18 leases of the mesh expired together: is the network cut?"


def test_instances_that_die_one_after_the_other_within_a_lease_count_together():
    leases, world = Leases(lease=LEASE), shop(orders=3, other=30)
    heard(leases, world, now=100)
    first, second = instance("orders", 0), instance("orders", 1)
    world, _ = live(leases, world, start=101, end=117, silent={first})
    world, _ = live(leases, world, start=118, end=131, silent={first, second})
    assert first not in world.leased
    heard(leases, world, now=132, silent={second})
    verdict = leases.tick(now=132, synced_since=0, census=world)
    assert verdict.decisions == ()
    assert verdict.held[0].expired == (second,)


def test_the_last_instance_stays_until_its_agent_says_that_it_is_gone():
    leases, world, last = Leases(lease=LEASE), shop(cart=1, other=9), instance("cart", 0)
    heard(leases, world, now=100)
    world, done = live(leases, world, start=101, end=500, silent={last})
    assert done == []
    assert leases.tick(now=501, synced_since=0, census=world).held[0].why == "nothing else of shop/cart is left to call"
    leases.leave(last)
    assert leases.tick(now=502, synced_since=0, census=without(world, last)).held == ()


def test_the_last_instance_goes_once_a_successor_serves():
    leases, world, last = Leases(lease=LEASE), shop(cart=1, other=9), instance("cart", 0)
    heard(leases, world, now=100)
    world, _ = live(leases, world, start=101, end=200, silent={last})
    successor = instance("cart", 1)
    world = replace(
        world,
        leased={**world.leased, successor: "m"},
        services={**world.services, Name("shop", "cart"): frozenset({last, successor})},
        ready=world.ready | {successor},
    )
    world, _ = live(leases, world, start=201, end=240, silent={last})
    assert last not in world.leased
    assert successor in world.ready


def test_marks_are_lifted_when_nobody_else_is_left():
    leases, world, dead = Leases(lease=LEASE), shop(orders=3, other=9), instance("orders", 0)
    heard(leases, world, now=100)
    world, _ = live(leases, world, start=101, end=120, silent={dead})
    assert dead in world.marked
    for n in (1, 2):
        world = carry_out(world, (leases.leave(instance("orders", n)),))
    verdict = leases.tick(now=121, synced_since=0, census=world)
    assert verdict.decisions == (Restore(workload=dead, reason="nothing else of shop/orders is left to call"),)


def test_an_endpoint_that_callers_reach_is_neither_marked_nor_removed():
    leases, world, unheard = Leases(lease=LEASE), shop(orders=3), instance("orders", 0)
    heard(leases, world, now=100)
    for now in range(101, 200, 5):
        leases.observe(unheard, now=now)
        world, done = live(leases, world, start=now, end=now + 4, silent={unheard})
        assert done == []


def test_what_never_served_goes_after_two_leases():
    leases, world, young = Leases(lease=LEASE), shop(orders=1), instance("orders", 0)
    world = replace(world, ready=frozenset())
    heard(leases, world, now=100)
    world, done = live(leases, world, start=101, end=140, silent={young})
    assert [(at, type(decision)) for at, decision in done] == [(130, Remove)]


def test_a_handwritten_workload_has_no_lease_and_counts_as_sound():
    leases, world, dead = Leases(lease=LEASE), shop(orders=2, other=9), instance("orders", 0)
    world = replace(world, leased={name: m for name, m in world.leased.items() if name != instance("orders", 1)})
    heard(leases, world, now=100)
    world, _ = live(leases, world, start=101, end=500, silent={dead})
    assert world.services[Name("shop", "orders")] == {instance("orders", 1)}


def test_asking_twice_gives_the_same_answer_and_the_deadline_is_when_it_changes():
    leases, world = Leases(lease=LEASE), shop(orders=3)
    heard(leases, world, now=100)
    leases.heartbeat(instance("orders", 1), machine="m", now=103)
    first = leases.tick(now=104, synced_since=0, census=world)
    assert first == leases.tick(now=104, synced_since=0, census=world)
    assert first.next_deadline == 115
    heard(leases, world, now=110, silent={instance("orders", 1)})
    assert leases.tick(now=110, synced_since=0, census=world).next_deadline == 118
    due = leases.tick(now=118, synced_since=0, census=world)
    assert due.decisions == leases.tick(now=118, synced_since=0, census=world).decisions != ()


def workload(name: str, *, state: WorkloadState | None, reason: str = "", machine: str = "") -> Workload:
    status = WorkloadStatus(state=state, reason=reason, machine=machine) if state else None
    return Workload(
        metadata=ObjectMeta(name=name, namespace="shop", labels=FrozenMap({"app": "orders"})),
        spec=WorkloadSpec(address="127.0.0.1"),
        status=status,
    )


def test_the_census_of_a_mesh():
    rows = [
        workload("a", state=WorkloadState.READY, machine="m1"),
        workload("b", state=WorkloadState.UNHEALTHY, reason=f"{EXPIRED}: x", machine="m2"),
        workload("c", state=WorkloadState.UNHEALTHY, reason="probe failed", machine="m2"),
        workload("d", state=None),
    ]
    orders = Service(
        metadata=ObjectMeta(name="orders", namespace="shop"), spec=ServiceSpec(selector=FrozenMap({"app": "orders"}))
    )
    nothing = Service(metadata=ObjectMeta(name="none", namespace="shop"))
    mesh = Mesh(workloads={row.name: row for row in rows}, services={each.name: each for each in (orders, nothing)})
    a, b, c, d = (row.name for row in rows)
    assert census(mesh) == Census(
        leased={a: "m1", b: "m2", c: "m2"},
        services={orders.name: frozenset({a, b, c, d})},
        ready=frozenset({a, d}),
        marked=frozenset({b}),
    )


class Partitions(RuleBasedStateMachine):
    """Agents come, go, die and fall silent; control planes restart and lose their store; time passes."""

    @initialize(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4))
    def begin(self, sizes: list[int]) -> None:
        self.now, self.synced_since = 1000.0, 1000.0
        self.world = shop(**{f"s{n}": size for n, size in enumerate(sizes)})
        self.leases = Leases(lease=LEASE)
        self.silent: set[Name] = set()
        self.removals: list[tuple[float, Name]] = []
        self.sizes = [(self.now, len(self.world.leased))]

    @rule(data=st.data())
    def some_fall_silent(self, data: st.DataObject) -> None:
        if self.world.leased:
            self.silent |= data.draw(st.sets(st.sampled_from(sorted(self.world.leased)), max_size=12))

    @rule(data=st.data())
    def some_are_heard_again(self, data: st.DataObject) -> None:
        if self.silent:
            self.silent -= data.draw(st.sets(st.sampled_from(sorted(self.silent))))

    @rule()
    def the_network_is_cut(self) -> None:
        self.silent = set(self.world.leased)

    @rule()
    def the_control_plane_restarts(self) -> None:
        self.leases = Leases(lease=LEASE)
        self.synced_since = self.now

    @rule(seconds=st.integers(1, 100))
    def the_store_is_away(self, seconds: int) -> None:
        self.now += seconds
        assert self.leases.tick(now=self.now, synced_since=None, census=self.world).decisions == ()
        self.synced_since = self.now

    @precondition(lambda self: len(self.world.leased) > 1)
    @rule(data=st.data())
    def one_leaves_in_order(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.leased)))
        self.world = carry_out(self.world, (self.leases.leave(name),))
        self.silent.discard(name)
        self.tick()

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            heard(self.leases, self.world, now=self.now, silent=self.silent)
            self.tick()
            assert not (self.world.leased.keys() - self.silent) & self.world.marked, "who is heard gets calls"

    def tick(self) -> None:
        verdict = self.leases.tick(now=self.now, synced_since=self.synced_since, census=self.world)
        before = self.world
        self.world = carry_out(before, verdict.decisions)
        for decision in verdict.decisions:
            if isinstance(decision, Remove):
                assert decision.workload in self.silent, "only the silent are removed"
                assert decision.workload in before.marked, "what is removed was marked before"
                self.removals.append((self.now, decision.workload))
        for name, members in before.services.items():
            if members & before.ready:
                assert self.world.services[name] & self.world.ready, f"{name} was emptied"
        again = self.leases.tick(now=self.now, synced_since=self.synced_since, census=self.world)
        assert not any(isinstance(each, Remove) for each in again.decisions), "nothing goes twice at once"
        assert verdict.next_deadline is None or verdict.next_deadline > self.now
        self.sizes.append((self.now, len(before.leased)))

    @invariant()
    def no_more_than_a_third_went_within_a_lease(self) -> None:
        if not hasattr(self, "removals"):
            return
        for at, _ in self.removals:
            within = [name for when, name in self.removals if at <= when < at + LEASE]
            most = max((size for when, size in self.sizes if at <= when < at + LEASE), default=0)
            assert len(within) <= max(1, most // 3)
        self.removals = [each for each in self.removals if each[0] > self.now - LEASE]
        self.sizes = [each for each in self.sizes if each[0] >= self.now - LEASE]


TestPartitions = Partitions.TestCase
TestPartitions.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
