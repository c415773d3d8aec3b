"""Waiting for conditions, with a deadline, and nothing else."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, *, within: float = 60.0) -> T:
    """Wait until the condition returns something true, and return that.

    What took long already is asked for less often: to answer costs the ones that are waited for some of their time.
    """
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        assert waited < within, f"not within {within:g} s: {what}"
        time.sleep(min(0.1, 0.02 + waited / 20))
    return found


def holds(condition: Callable[[], bool], what: str, *, lasting: float) -> None:
    """Make sure that the condition is true all the time, for so long."""
    deadline = time.monotonic() + lasting
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.03)
