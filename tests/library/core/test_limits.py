"""The gate of one service: who waits comes in turn, and who waits no longer leaves nothing behind."""

from masche.library.core.limits import Admission, Gate, Waiter
from masche.model.calling import CircuitBreaker


def a_waiter() -> Waiter:
    return Waiter(lambda: None)


def a_full_gate() -> Gate:
    gate = Gate(CircuitBreaker(max_connections=1, max_pending=2, max_requests=10))
    assert gate.enter() is Admission.ENTERED
    return gate


def test_who_waits_comes_in_turn():
    gate = a_full_gate()
    first, second = a_waiter(), a_waiter()
    for each in (first, second):
        assert gate.enter() is Admission.WAITING
        gate.wait(each)
    assert gate.enter() is Admission.OVERFLOW
    assert repr(gate) == "<Gate 1 active of 1, 2 waiting>"
    assert (gate.leave(), gate.leave(), gate.leave()) == (first, second, None)
    assert (gate.active, gate.waiting) == (0, 0)


def test_while_nobody_answers_those_who_gave_up_waiting_are_not_kept():
    """Else the queue of a service that hangs would grow with each call, and each call would cost more."""
    gate = a_full_gate()
    for _ in range(100):
        waiter = a_waiter()
        assert gate.enter() is Admission.WAITING
        gate.wait(waiter)
        assert gate.forgo(waiter) is None
    assert gate.waiting == 0
    assert gate.leave() is None
    assert gate.active == 0


def test_who_gives_up_just_when_its_turn_has_come_hands_it_on():
    gate = a_full_gate()
    first, second = a_waiter(), a_waiter()
    gate.wait(first)
    gate.wait(second)
    assert gate.leave() is first
    assert gate.forgo(first) is second
    assert (gate.leave(), gate.active) == (None, 0)
