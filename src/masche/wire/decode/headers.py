"""Decode how headers are changed, and fold changes that are made one after the other into one.

Envoy makes the changes of a weighted cluster, then of its route, its virtual host and its table (or the other way
around, when the table says so); within one, removals come first. Invariant: one folded change does what all did in
turn.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

from masche.model.view import HeaderChange
from masche.wire.decode.reading import only
from masche.wire.framing import WireError

_APPEND, _SET = 0, 2
"""Of ``HeaderAppendAction``, what the older ``append`` stands for."""

UNCHANGED = HeaderChange()


def change(added: Iterable[Any], removed: Iterable[str], where: str) -> HeaderChange:
    """Return what a list of HeaderValueOptions and a list of names do."""
    names = tuple(name.lower() for name in removed)
    for name in names:
        _check(name, where)
    steps = (_one(each, f"{where}[{index}]") for index, each in enumerate(added))
    return reduce(folded, steps, HeaderChange(remove=names) if names else UNCHANGED)


def request_and_response(message: Any, where: str) -> tuple[HeaderChange, HeaderChange]:
    """Return both changes of a message that has the four fields for them."""
    asked = change(message.request_headers_to_add, message.request_headers_to_remove, f"{where}.request_headers_to_add")
    told = change(
        message.response_headers_to_add, message.response_headers_to_remove, f"{where}.response_headers_to_add"
    )
    return asked, told


CHANGES = frozenset(
    {
        "request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove",
    }
)  # fmt: skip
"""The four fields."""


def folded(first: HeaderChange, second: HeaderChange) -> HeaderChange:
    """Return the one change that does what these two do in turn."""
    if first.is_empty or second.is_empty:
        return second if first.is_empty else first
    _check_order(first, second)
    gone = {*second.remove, *(name for name, _ in second.set)}

    def kept(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in pairs if pair[0] not in gone)

    return HeaderChange(
        set=(*kept(first.set), *second.set),
        add=(*kept(first.add), *second.add),
        remove=(*first.remove, *(name for name in second.remove if name not in first.remove)),
        set_present=(*kept(first.set_present), *second.set_present),
        set_absent=(*kept(first.set_absent), *second.set_absent),
    )


def _check_order(first: HeaderChange, second: HeaderChange) -> None:
    """What depends on whether a header is there cannot be folded with what came before it."""
    touched = {name for pairs in (first.set, first.add, first.set_present, first.set_absent) for name, _ in pairs}
    touched.update(first.remove)
    later = {name for name, _ in (*second.set_present, *second.set_absent)}
    later.update(name for name, _ in second.add if name in {each for each, _ in first.set_absent})
    if clash := touched & later:
        raise WireError(f"the header {min(clash)} is changed twice, once by whether it is there: not carried out here")


def _one(message: Any, where: str) -> HeaderChange:
    only(message, where, {"header", "append", "append_action", "keep_empty_value"})
    only(message.header, where, {"key", "value", "raw_value"})
    name = message.header.key.lower()
    _check(name, where)
    value = _literal(message.header.value or message.header.raw_value.decode("latin-1"), where)
    if not value and not message.keep_empty_value:
        return UNCHANGED
    pair = ((name, value),)
    match _action(message):
        case 0:
            return HeaderChange(add=pair)
        case 1:
            return HeaderChange(set_absent=pair)
        case 2:
            return HeaderChange(set=pair)
        case 3:
            return HeaderChange(set_present=pair)
        case other:
            raise WireError(f"{where}: {other} is no way to add a header")


def _action(message: Any) -> int:
    """``append`` is the older word, and wins where both are said."""
    if message.HasField("append"):
        return _APPEND if message.append.value else _SET
    return message.append_action


def _check(name: str, where: str) -> None:
    if not name or name.startswith(":") or name == "host":
        raise WireError(f"{where}: {name or 'a header without a name'} is not changed as a header")


def _literal(value: str, where: str) -> str:
    """Return the text that a format stands for; the commands of Envoy's formats are not carried out."""
    if "%" in value.replace("%%", ""):
        raise WireError(
            f"{where}: the value {value!r} has commands of Envoy's formatter, which are not carried out here"
        )
    return value.replace("%%", "%")
