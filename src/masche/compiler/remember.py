"""Work done once per table of the Mesh: a table that did not change between two revisions is the same object in both.

Invariant: a remembered value belongs to exactly these objects; they are held, so that an identity is never reused.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

HELD = 8
"""How many results are kept: the revisions before and after a change, for a few meshes."""


def by_identity(function: Callable[P, T]) -> Callable[P, T]:
    """Remember the last results of a pure function by the identity of its positional arguments."""
    held: list[tuple[tuple[object, ...], T]] = []

    @wraps(function)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> T:
        for known, value in held:
            if all(one is other for one, other in zip(known, args, strict=True)):
                return value
        value = function(*args, **kwargs)
        held.insert(0, (args, value))
        del held[HELD:]
        return value

    return remembered
