"""Many made-up cases, put to a real Envoy and to the library: what differs is shown, and all is said in the summary."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

SEED = 20261123

Say = Callable[[str, object], None]
Case = TypeVar("Case")


def differences(
    every: Iterator[Case], batch: int, load: Callable[[list[Case]], None], differ: Callable[[Case, int], str]
) -> list[str]:
    """Load so many cases at a time, and ask of each, by its place in the batch, in which words it differs."""
    wrong: list[str] = []
    while some := list(islice(every, batch)):
        load(some)
        wrong += filter(None, (differ(case, index) for index, case in enumerate(some)))
    return wrong


def judge(what: str, count: int, wrong: list[str], outcomes: str, say: Say) -> None:
    """Say what was compared; fail with the first differences."""
    say("parity", f"{what}: {count} cases, seed {SEED}, {len(wrong)} differences, {outcomes}")
    assert not wrong, "\n".join([f"{len(wrong)} of {count} (seed {SEED}) differ", *wrong[:20]])
