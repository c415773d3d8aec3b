"""What an act of the demonstration is, and what becomes of a promise that is not kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from masche.cli.stage import Calls, Stage


class BrokenPromiseError(Exception):
    """The mesh did not do what it promises; the message says which promise and what was seen instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """``title`` and ``story`` are said before, ``play`` returns what was found."""

    title: str
    story: str
    play: Callable[[Stage], Iterable[str]]


def promise(kept: bool, what: str) -> None:
    """Raise BrokenPromiseError unless it was kept."""
    if not kept:
        raise BrokenPromiseError(what)


def none_failed(calls: Calls, when: str) -> str:
    """Say that no call failed, or raise BrokenPromiseError."""
    promise(calls.sent > 0, f"no calls were made {when}")
    promise(calls.failed == 0, f"{calls.failed} of {calls.sent} calls failed {when}: {'; '.join(calls.errors)}")
    return f"{calls.sent} calls {when}, 0 failed"
