"""Which route a request takes, what becomes of it there, and what its callee and its caller see: the library and Envoy.

The library reads the very bytes that the Envoy is given. Thousands of tables stand in one table at a time, so that a
case costs one request.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from live.mesh import Live
from parity.agreement import SEED, Say, differences, judge
from parity.routed import Outcome, Routed, routed
from parity.tables import Case, cases

BATCH = 1000
"""Tables that one Envoy is given at a time."""


@pytest.fixture(scope="module")
def both(live: Live) -> Iterator[Routed]:
    with routed(live) as found:
        yield found


def test_2000_requests_are_routed_as_envoy_routes_them(both: Routed, record_property: Say):
    agree(both, 2000, record_property)


@pytest.mark.long
def test_20000_requests_are_routed_as_envoy_routes_them(both: Routed, record_property: Say):
    agree(both, 20_000, record_property)


def agree(both: Routed, count: int, say: Say) -> None:
    """Put so many cases to both, and show those on which they differ."""
    found: Counter[int] = Counter()

    def differ(case: Case, index: int) -> str:
        outcome, foretold = both.in_envoy(case, index), both.in_library(case, index)
        found[outcome.status] += 1
        return "" if outcome in foretold else _difference(case, outcome, foretold)

    wrong = differences(cases(SEED, count), BATCH, both.load, differ)
    outcomes = ", ".join(f"{number} x {status}" for status, number in found.most_common())
    judge("routing", count, wrong, outcomes, say)
    assert found[200] > count / 10, f"requests that somebody answered: {outcomes}"


def _difference(case: Case, outcome: Outcome, foretold: set[Outcome]) -> str:
    return "\n".join([str(case.request), f"  Envoy: {outcome}", *(f"  library: {each}" for each in foretold)])
