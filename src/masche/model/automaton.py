"""Whether a whole text fits a regular expression, in time that grows with the text alone, whatever the expression.

Python's engine backtracks: ``(a+)+b`` takes it ages to say no to a few dozen letters, and texts come from strangers.
Here the expression becomes a nondeterministic automaton (Thompson 1968), of which a deterministic one is made as far as
texts need it, as RE2 does. Invariant: what it says is what Python's engine would say, had it the time.
"""

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

_PARSER: Any = import_module("re._parser")
"""Python's own parser, so that both read an expression alike. Private, with the same tree since Python 3.11."""

_MOST_NODES = 5_000
"""How large an automaton may be: a set repeated a thousand times, and more."""

_MOST_STATES, _MOST_EDGES = 500, 256
"""So many deterministic states are remembered, and characters for each; then they are made anew."""

_Fits = Callable[[str], bool]


class TooLargeError(ValueError):
    """An expression whose counted repeats come to more than can be held."""


class _Node:
    """One place in the expression: eats a character that ``fits``, or goes on to all of ``after`` without one."""

    __slots__ = ("after", "fits", "where")

    def __init__(self, *after: "_Node", fits: _Fits | None = None, where: str = "") -> None:
        self.after, self.fits, self.where = after, fits, where


class _State:
    """A set of places in which a text may have arrived; ``accepts`` when it may end there."""

    __slots__ = ("accepts", "edges", "nodes")

    def __init__(self, nodes: frozenset[_Node], *, accepts: bool) -> None:
        self.nodes, self.accepts = nodes, accepts
        self.edges: dict[str, _State] = {}


class Automaton:
    """One expression, compiled. Threads may share it: what it learns is only what they would learn, too."""

    def __init__(self, start: _Node, end: _Node) -> None:
        self._end = end
        self._states: dict[frozenset[_Node], _State] = {}
        self._start = self._state([start], is_start=True)

    @property
    def remembered(self) -> int:
        """How many states are kept for later texts."""
        return len(self._states)

    def fits(self, text: str) -> bool:
        """Say whether the whole text fits."""
        state = self._start
        for sign in text:
            found = state.edges.get(sign)
            state = found if found is not None else self._step(state, sign)
            if not state.nodes:
                return False
        return state.accepts

    def _step(self, state: _State, sign: str) -> _State:
        after = [node.after[0] for node in state.nodes if node.fits is not None and node.fits(sign)]
        found = self._state(after, is_start=False)
        if len(state.edges) < _MOST_EDGES:
            state.edges[sign] = found
        return found

    def _state(self, nodes: Iterable[_Node], *, is_start: bool) -> _State:
        reached = _closure(nodes, is_start=is_start, is_end=False)
        key = frozenset(node for node in reached if node.fits is not None or node.where == "end" or node is self._end)
        if is_start or (found := self._states.get(key)) is None:
            accepts = self._end in _closure(key, is_start=is_start, is_end=True)
            found = _State(key, accepts=accepts)
            if len(self._states) >= _MOST_STATES:
                self._states = {}
                self._start.edges = {}
            if not is_start:
                self._states[key] = found
        return found


def _closure(nodes: Iterable[_Node], *, is_start: bool, is_end: bool) -> set[_Node]:
    """All places that are reached without a character."""
    reached: set[_Node] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if node in reached or (node.where == "start" and not is_start):
            continue
        reached.add(node)
        if node.fits is None and (node.where != "end" or is_end):
            left += node.after
    return reached


def automaton(translated: str) -> Automaton | None:
    """Return the automaton of an expression in Python's spelling; None when it looks around a word's edge or a line's.

    Raises:
        TooLargeError: its counted repeats are too many.
    """
    tree = _PARSER.parse(translated, re.ASCII)
    end = _Node()
    builder = _Builder()
    start = builder.sequence(tree, end, bool(tree.state.flags & re.IGNORECASE), bool(tree.state.flags & re.DOTALL))
    return None if builder.looks_around else Automaton(start, end)


_PLACES = {"AT_BEGINNING": "start", "AT_BEGINNING_STRING": "start", "AT_END_STRING": "end"}
_CATEGORIES: dict[str, _Fits] = {
    "CATEGORY_DIGIT": lambda sign: sign.isascii() and sign.isdigit(),
    "CATEGORY_SPACE": lambda sign: sign in " \t\n\r\f\v",
    "CATEGORY_WORD": lambda sign: sign.isascii() and (sign.isalnum() or sign == "_"),
}


class _Builder:
    """Builds nodes from the end of an expression to its beginning."""

    def __init__(self) -> None:
        self._count = 0
        self.looks_around = False

    def _node(self, *after: _Node, fits: _Fits | None = None, where: str = "") -> _Node:
        self._count += 1
        if self._count > _MOST_NODES:
            raise TooLargeError("its repeats come to too much")
        return _Node(*after, fits=fits, where=where)

    def sequence(self, items: Any, after: _Node, is_folded: bool, is_all: bool) -> _Node:
        """Return where a sequence begins that ends at ``after``."""
        for op, value in reversed(list(items)):
            after = self._one(str(op), value, after, is_folded, is_all)
        return after

    def _one(self, op: str, value: Any, after: _Node, is_folded: bool, is_all: bool) -> _Node:
        match op:
            case "SUBPATTERN":
                _, added, removed, items = value
                folded = (is_folded or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE
                dotted = (is_all or bool(added & re.DOTALL)) and not removed & re.DOTALL
                self.looks_around |= bool(added & re.MULTILINE)
                return self.sequence(items, after, folded, dotted)
            case "BRANCH":
                return self._node(*(self.sequence(each, after, is_folded, is_all) for each in value[1]))
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, items = value
                return self._repeat(int(least), most, lambda then: self.sequence(items, then, is_folded, is_all), after)
            case "AT":
                self.looks_around |= str(value) not in _PLACES
                return self._node(after, where=_PLACES.get(str(value), ""))
            case _:
                return self._node(after, fits=_fits(op, value, is_folded=is_folded, is_all=is_all))

    def _repeat(self, least: int, most: Any, once: Callable[[_Node], _Node], after: _Node) -> _Node:
        node = after
        if most is _PARSER.MAXREPEAT:
            node = self._node()
            node.after = (once(node), after)
        else:
            for _ in range(int(most) - least):
                node = self._node(once(node), after)
        for _ in range(least):
            node = once(node)
        return node


def _fits(op: str, value: Any, *, is_folded: bool, is_all: bool) -> _Fits:
    """Return what a place that eats a character takes."""
    match op:
        case "ANY":
            return (lambda _: True) if is_all else (lambda sign: sign != "\n")
        case "LITERAL":
            return _of_set([(op, value)], is_folded=is_folded)
        case "NOT_LITERAL":
            return _of_set([("NEGATE", None), ("LITERAL", value)], is_folded=is_folded)
        case "IN":
            return _of_set(value, is_folded=is_folded)
        case _:
            raise TooLargeError(f"{op} is nothing that an automaton has")


def _of_set(items: Any, *, is_folded: bool) -> _Fits:
    is_negated = False
    parts: list[_Fits] = []
    for op, value in items:
        if str(op) == "NEGATE":
            is_negated = True
        else:
            parts.append(_part(str(op), value))

    def holds(sign: str) -> bool:
        return any(part(sign) for part in parts)

    def fits(sign: str) -> bool:
        other = sign.swapcase() if is_folded and sign.isascii() else sign
        return (holds(sign) or (other != sign and holds(other))) != is_negated

    return fits


def _part(op: str, value: Any) -> _Fits:
    match op:
        case "LITERAL":
            wanted = chr(value)
            return lambda sign: sign == wanted
        case "RANGE":
            first, last = chr(value[0]), chr(value[1])
            return lambda sign: first <= sign <= last
        case _:
            name = str(value)
            if (kind := _CATEGORIES.get(name.replace("_NOT_", "_"))) is None:
                raise TooLargeError(f"{name} is nothing that an automaton has")
            return (lambda sign: not kind(sign)) if "_NOT_" in name else kind
