"""What every balancer of masche must do, whatever it measures and however it picks, shown in virtual time.

Each check raises AssertionError naming what was promised, and what was seen instead. The same seed, the same calls.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from masche.testing.virtual_servers import Call, VirtualServer, simulate
from masche.traffic.balancer import Balancer
from masche.traffic.membership import Endpoint, Health, Membership
from masche.traffic.outcome import Outcome

Make = Callable[[Membership], Balancer]
"""Makes the balancer of one caller."""

RATES = (1.0, 10.0, 1000.0)
"""Calls a second at which shares must be right."""
LATENCY = 0.010
"""What a healthy instance takes, in the middle, seconds."""
EVENNESS = 0.10
"""How far from the fair share an instance among equals may be."""


def check_balancer(make: Make, *, seed: int = 1) -> None:
    """All of the checks."""
    check_equal_shares(make, seed=seed)
    check_recovery(make, seed=seed)
    check_failing_fast(make, seed=seed)
    check_no_herd(make, seed=seed)
    check_panic(make, seed=seed)


def check_equal_shares(make: Make, *, seed: int, rates: Sequence[float] = RATES, calls: int = 6000) -> None:
    """Equal instances get equal shares within 10 %, at 1, 10 and 1000 calls a second."""
    for rate in rates:
        servers = {name: VirtualServer(_healthy) for name in _names(4)}
        done = simulate([make(_members(4))], servers, rate=rate, seconds=calls / rate, rng=Random(seed))  # noqa: S311 - a simulation
        for name, share in _shares(done, 4).items():
            said = f"equal instances get equal shares at {rate:g} calls/s, but {name} got {share:.2f} of a fair one"
            assert abs(share - 1) <= EVENNESS, said


def check_recovery(make: Make, *, seed: int, rate: float = 200.0) -> None:
    """An instance that was slow, or failed, for 20 s is back at three quarters of its share 20 s after it recovered."""
    for what in ("slow", "failing"):
        server = VirtualServer(
            lambda now, rng, what=what: 1.0 if what == "slow" and now < 20 else _healthy(now, rng),
            lambda now, _, what=what: Outcome.FAILURE if what == "failing" and now < 20 else Outcome.SUCCESS,
        )
        servers = {name: VirtualServer(_healthy) for name in _names(4)} | {"i0": server}
        done = simulate([make(_members(4))], servers, rate=rate, seconds=60, rng=Random(seed))  # noqa: S311 - a simulation
        share = _shares([call for call in done if call.at >= 40], 4)["i0"]
        assert share >= 0.75, f"an instance that was {what} is not starved, but got {share:.2f} of a fair share"


def check_failing_fast(make: Make, *, seed: int) -> None:
    """An instance that answers 503 at once, always or half of the time, never gets more than its fair share."""
    for rate in (10.0, 1000.0):
        for odds in (1.0, 0.5):
            server = VirtualServer(
                lambda _now, _rng: LATENCY / 20,
                lambda _now, rng, odds=odds: Outcome.REFUSED if rng.random() < odds else Outcome.SUCCESS,
            )
            servers = {name: VirtualServer(_healthy) for name in _names(4)} | {"i0": server}
            done = simulate([make(_members(4))], servers, rate=rate, seconds=4000 / rate, rng=Random(seed))  # noqa: S311 - a simulation
            share = _shares(done, 4)["i0"]
            said = (
                f"failing fast attracts nobody, but {odds:.0%} failures at {rate:g} calls/s got {share:.2f} fair shares"
            )
            assert share <= 1 + EVENNESS, said


def check_no_herd(make: Make, *, seed: int, callers: int = 50) -> None:
    """Many callers who see the same do not run together: lines are about as long as among callers who draw lots (not
    half again as long), also while an instance recovers, and it gets no more than half again its share then.
    """
    servers = {name: VirtualServer(_healthy, workers=4) for name in _names(10)}
    slow = VirtualServer(lambda now, rng: 0.2 if 4 <= now < 8 else _healthy(now, rng), workers=4)
    servers["i0"] = slow
    choosers = [make(_members(10)) for _ in range(callers)]
    rng = Random(seed)  # noqa: S311 - a simulation
    simulate(choosers, servers, rate=2400, seconds=8.5, rng=rng)
    for server in servers.values():
        server.most = server.under_way = 0
    done = simulate(choosers, servers, rate=2400, seconds=8, rng=rng, begins=12)
    longest = max(server.most for server in servers.values())
    lots = _longest_by_lot(2400, 8, seed)
    assert longest <= 1.5 * lots, (
        f"callers do not herd, but a line of {longest} was seen, and {lots} when they draw lots"
    )
    share = max(_shares(done, 10).values())
    assert share <= 1.5, f"a recovered instance is not flooded, but one got {share:.2f} fair shares"


def check_panic(make: Make, *, seed: int) -> None:
    """With nobody available everyone is called, and every claim says so; it ends when enough are back."""
    rng = Random(seed)  # noqa: S311 - a simulation
    balancer = make(_members(4))
    for health in (Health.UNHEALTHY, Health.EJECTED):
        ill = Membership.of(Endpoint(id=name, health=health) for name in _names(4))
        balancer.membership = ill
        claims = [balancer.claim(now=1.0, rng=rng, key=rng.getrandbits(64)) for _ in range(200)]
        assert None not in claims, f"panic serves when all are {health.value}"
        assert all(claim.is_panicking for claim in claims if claim), "panic says that it is one"
        assert "PANIC" in repr(balancer), "panic is seen in the repr"
        met = {claim.endpoint.id for claim in claims if claim}
        assert met == set(_names(4)), f"panic calls everyone, but only {sorted(met)} were called"
        for claim in claims:
            if claim:
                claim.settle(Outcome.SUCCESS, now=1.01)
    balancer.membership = _members(4)
    claim = balancer.claim(now=2.0, rng=rng)
    assert claim is not None, "after panic it serves as before"
    assert not claim.is_panicking, "panic ends"
    claim.settle(Outcome.SUCCESS, now=2.01)


def _longest_by_lot(rate: float, seconds: float, seed: int) -> int:
    """The longest line at ten instances when each call goes to one drawn by lot, everything else alike."""
    rng = Random(seed)  # noqa: S311 - a simulation
    servers = [VirtualServer(_healthy, workers=4) for _ in range(10)]
    lines: list[list[float]] = [[] for _ in servers]
    now, longest = 0.0, 0
    for _ in range(int(rate * seconds)):
        now += rng.expovariate(rate)
        drawn = rng.randrange(10)
        lines[drawn] = [end for end in lines[drawn] if end > now]
        lines[drawn].append(servers[drawn].serve(now, rng)[0])
        longest = max(longest, len(lines[drawn]))
    return longest


def _healthy(now: float, rng: Random) -> float:  # noqa: ARG001 - of the behaviour's form
    return LATENCY * rng.lognormvariate(0, 0.3)


def _names(count: int) -> list[str]:
    return [f"i{number}" for number in range(count)]


def _members(count: int) -> Membership:
    return Membership.of(Endpoint(id=name) for name in _names(count))


def _shares(calls: Sequence[Call], count: int) -> dict[str, float]:
    """Each instance's part of the calls in fair shares: 1 is fair."""
    found = Counter(call.endpoint for call in calls)
    return {name: found[name] * count / len(calls) for name in _names(count)}
