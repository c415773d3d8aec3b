"""Which vantages a change would reach, and in what: the blast radius of a dry run.

Decided by comparing the Views before and after; a vantage that is told the same is not in the answer.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from masche.compiler.nearness import is_local
from masche.compiler.view import view
from masche.model.mesh import Mesh
from masche.model.vantage import Placement, Vantage
from masche.model.view import View

K = TypeVar("K")
V = TypeVar("V")


Move = tuple[Vantage, Vantage]
"""Where a workload stands before a change and after it: a policy that selects a new label moves whoever has it."""


def affected(before: Mesh, after: Mesh, moves: Iterable[Move]) -> Mapping[Move, tuple[str, ...]]:
    """Return, for each move after which something else is told, what changes, in sentences."""
    told = (
        (move, (*_sentences(view(before, move[0]), view(after, move[1])), *_within(before, after, move)))
        for move in moves
    )
    return {move: sentences for move, sentences in told if sentences}


def _within(before: Mesh, after: Mesh, move: Move) -> Iterator[str]:
    """What becomes of calls between workloads of one node proxy, of which no View tells."""
    if move[1].placement is Placement.NODE and is_local(before) != is_local(after):
        yield "calls within its machine: " + (
            "not encrypted any more" if is_local(after) else "by mutual TLS from now on"
        )


def _sentences(old: View, new: View) -> Iterator[str]:
    if old == new:
        return
    yield from _changes(
        "calls to {}", {each.service: each for each in old.outbound}, {each.service: each for each in new.outbound}
    )
    yield from _changes(
        "the connection to {}",
        {each.service: each for each in old.clusters},
        {each.service: each for each in new.clusters},
    )
    yield from _changes(
        "policy {}",
        {each.name: each for each in old.inbound.policies},
        {each.name: each for each in new.inbound.policies},
    )
    yield from _changes(
        "limit {}",
        {each.name: each for each in old.inbound.limits},
        {each.name: each for each in new.inbound.limits},
    )
    yield from _inbound(old, new)
    yield from _changes(
        "gateway listener {}",
        {each.name: each for each in old.gateway},
        {each.name: each for each in new.gateway},
    )


def _inbound(old: View, new: View) -> Iterator[str]:
    one, other = old.inbound, new.inbound
    if (one.mtls, one.port_mtls) != (other.mtls, other.port_mtls):
        yield f"mutual TLS of callers: {one.mtls} becomes {other.mtls}"
    yield from _changes(
        "inbound port {}", {each.target: each for each in one.ports}, {each.target: each for each in other.ports}
    )
    if old.identity != new.identity:
        yield f"its identity: {old.identity} becomes {new.identity}"
    if old.is_registry_only != new.is_registry_only:
        yield "calls out of the mesh are " + ("refused" if new.is_registry_only else "let through")


def _changes(what: str, old: Mapping[K, V], new: Mapping[K, V]) -> Iterator[str]:
    """Say what is added, changed and removed, in the order of the names."""
    for key in sorted({*old, *new}, key=str):
        name = what.format(key)
        if key not in old:
            yield f"{name}: added"
        elif key not in new:
            yield f"{name}: removed"
        elif old[key] != new[key]:
            yield f"{name}: changed"
