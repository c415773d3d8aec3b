"""Renewal: at a jittered half-life, never after the expiry while it can be helped, and never in a storm."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from masche.identity.rotation import JITTER, MAX_PAUSE, MAX_PAUSE_EXPIRED, MIN_LIFETIME, Rotation, rotation

LIFETIMES = st.floats(min_value=-1e6, max_value=1e8, allow_nan=False)
NOWS = st.floats(min_value=0, max_value=1e7, allow_nan=False)


@given(lifetime=LIFETIMES, now=NOWS, seed=st.integers(0, 1000))
def test_renewal_falls_at_half_life_within_the_jitter(lifetime: float, now: float, seed: int) -> None:
    found = rotation(lifetime=lifetime, now=now, rng=Random(seed))
    effective = max(lifetime, MIN_LIFETIME)
    share = (found.renew_at - now) / effective
    assert 0.5 - JITTER - 1e-6 <= share <= 0.5 + JITTER + 1e-6
    assert found.next_deadline() < found.expires_at


@given(lifetime=st.floats(min_value=-1e4, max_value=1e6), seed=st.integers(0, 1000))
def test_while_renewal_fails_no_attempt_is_put_off_past_the_expiry(lifetime: float, seed: int) -> None:
    rng = Random(seed)
    found = rotation(lifetime=lifetime, now=0.0, rng=rng)
    attempts = 0
    while found.renew_at < found.expires_at:
        now = found.renew_at
        found = found.failed(now=now, rng=rng)
        attempts += 1
        assert now < found.renew_at <= max(found.expires_at, now)
        assert found.renew_at - now <= MAX_PAUSE
    assert found.renew_at == found.expires_at
    assert attempts >= 3
    assert attempts <= 60 + max(lifetime, MIN_LIFETIME) / (MAX_PAUSE / 2)


@given(st.integers(0, 1000))
def test_after_the_expiry_attempts_are_frequent_but_no_storm(seed: int) -> None:
    rng = Random(seed)
    found = Rotation(expires_at=100.0, renew_at=100.0, failures=20)
    for _ in range(50):
        now = found.renew_at
        found = found.failed(now=now, rng=rng)
        assert MAX_PAUSE_EXPIRED / 2 <= found.renew_at - now <= MAX_PAUSE_EXPIRED
    assert found.failures == 70


def test_a_thousand_workloads_do_not_renew_together() -> None:
    rng = Random(7)
    instants = [rotation(lifetime=86400, now=0.0, rng=rng).renew_at for _ in range(1000)]
    busiest = max(sum(1 for i in instants if start <= i < start + 600) for start in range(30000, 60000, 600))
    assert busiest < 1000 * 600 / (2 * JITTER * 86400) * 2.2


def test_failing_renewal_counts_and_does_not_lengthen_a_life() -> None:
    found = rotation(lifetime=100, now=0.0, rng=Random(1))
    assert found.failures == 0
    failed = found.failed(now=50, rng=Random(1))
    assert failed.failures == 1
    assert failed.expires_at == 100
