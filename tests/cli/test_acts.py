"""What the demonstration promises of what its customers saw."""

import pytest

from masche.cli.act import BrokenPromiseError
from masche.cli.acts import SLOW_MS, slowed
from masche.cli.stage import Calls


def calls(sent: int, *, slow: int = 0) -> Calls:
    return Calls(sent=sent, failed=0, latencies=(3.0,) * (sent - slow) + (SLOW_MS + 5,) * slow, errors=())


def test_a_slow_replica_is_judged_by_what_most_customers_wait_and_not_by_who_looks_whether_it_is_well():
    said = list(slowed(calls(150), calls(150, slow=30), calls(300, slow=4)))
    assert said[0] == "19 of 20 calls took at most 3 ms before (p95), 405 ms just after, then 3 ms"
    assert said[1].startswith("4 of these last 300 calls met it")


def test_customers_who_go_on_waiting_for_a_slow_replica_break_the_promise():
    with pytest.raises(BrokenPromiseError, match="one customer in twenty still waits 405 ms"):
        list(slowed(calls(150), calls(150, slow=30), calls(300, slow=30)))
