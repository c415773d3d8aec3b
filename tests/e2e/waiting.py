"""Waiting for conditions, with a deadline, and nothing else."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, *, within: float = 30.0) -> T:
    """Wait until the condition returns something true, and return that."""
    deadline = time.monotonic() + within
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.03)


def holds(condition: Callable[[], bool], what: str, *, lasting: float) -> None:
    """Make sure that the condition is true all the time, for so long."""
    deadline = time.monotonic() + lasting
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.03)
