"""What all decoders share: parse within bounds, and refuse every field that nobody reads.

Messages are of the library's own descriptor subset. Invariant: a field that is set and not named by the decoder of its
message makes the whole resource refused, with a sentence that names it, and so does one that this Envoy does not have.
"""

from collections.abc import Set as AbstractSet
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from masche.wire.framing import WireError
from masche.wire.pool import LIBRARY, message_class
from masche.wire.types import PREFIX

MAX_BYTES = 32 * 1024 * 1024
"""How large one resource may be: a table of many thousand services."""

_LONGEST = 315_576_000_000.0
"""Seconds: what a Duration may say at the most."""


def message_of(type_name: str, data: bytes) -> Any:
    """Return the message of the library's subset that the bytes are.

    Raises:
        WireError: they are no such message, or too many.
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"a {type_name} of {len(data)} bytes is too large: {MAX_BYTES} are decoded at the most")
    try:
        return message_class(type_name, LIBRARY).FromString(data)
    except DecodeError as error:
        raise WireError(f"no {type_name}: {error}") from error


def only(message: Any, where: str, names: AbstractSet[str]) -> None:
    """Raise a WireError when a field is set that is not among ``names``."""
    for field, _ in message.ListFields():
        if field.name not in names:
            raise WireError(f"{where}.{field.name} is not carried out here")
    if len(unknown := UnknownFieldSet(message)):
        raise WireError(f"{where} has a field that is not known here, number {unknown[0].field_number}")


def named(message: Any, name: str, kind: str) -> str:
    """Return the name of a resource; ``name`` is the one by which it was asked for, "" when that is not known."""
    own = message.cluster_name if kind == "ClusterLoadAssignment" else message.name
    if name and own != name:
        raise WireError(f"a {kind} that is called {own!r} came under the name {name!r}")
    if not own:
        raise WireError(f"a {kind} without a name")
    return own


def seconds(duration: Any, where: str) -> float:
    """Return a Duration in seconds; one that is negative is refused."""
    value = duration.seconds + duration.nanos / 1_000_000_000
    if not 0 <= value <= _LONGEST:
        raise WireError(f"{where}: {value} seconds are no length of time")
    return value


def seconds_or(message: Any, field: str, default: float, where: str) -> float:
    """Return the Duration in ``field``, or the default when it is not set."""
    return seconds(getattr(message, field), f"{where}.{field}") if message.HasField(field) else default


def value_or(message: Any, field: str, default: Any) -> Any:
    """Return what the wrapper in ``field`` holds, or the default when it is not set."""
    return getattr(message, field).value if message.HasField(field) else default


_DENOMINATORS = {0: 100, 1: 10_000, 2: 1_000_000}


def fraction(message: Any, where: str) -> tuple[int, int]:
    """Return a FractionalPercent as numerator and denominator."""
    if message.denominator not in _DENOMINATORS:
        raise WireError(f"{where}: {message.denominator} is no denominator")
    return message.numerator, _DENOMINATORS[message.denominator]


def runtime_fraction(message: Any, where: str) -> tuple[int, int]:
    """Return a RuntimeFractionalPercent; there is no runtime here that would say otherwise than its default."""
    only(message, where, {"default_value", "runtime_key"})
    return fraction(message.default_value, where)


def type_of(packed: Any) -> str:
    """Return the full name of the type that an Any holds."""
    return packed.type_url.rpartition("/")[2]


def unpacked(packed: Any, type_name: str) -> Any:
    """Return the message in an Any, which must be of this type."""
    if packed.type_url != PREFIX + type_name:
        raise WireError(f"{packed.type_url!r} stands where {type_name} is expected")
    return message_of(type_name, packed.value)
