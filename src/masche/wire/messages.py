"""Encode plain bodies into Envoy's messages and back: every field name is checked against this very Envoy.

A body is what protobuf's JSON mapping would show, with field names as in the .proto files, and with three conveniences:
a Duration is a number of seconds, a wrapper is its bare value, and an ``Any`` is a body with its type under ``@type``
(or a ``Packed`` that was encoded before). Invariant: equal bodies give equal bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from masche.model.frozen import frozen
from masche.wire.framing import WireError
from masche.wire.pool import ENVOY, message_class, pool
from masche.wire.types import PREFIX


class Packed(NamedTuple):
    """An ``Any`` whose message is already encoded."""

    type_url: str
    value: bytes


Json = None | bool | int | float | str | bytes | Packed | Sequence["Json"] | Mapping[str, "Json"]
Body = Mapping[str, Json]

_Convert = Callable[[Json, str], Any]

_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)


def encode(type_name: str, body: Body, subset: str = ENVOY) -> bytes:
    """Return the deterministic bytes of the message ``type_name`` that ``body`` describes.

    Raises:
        WireError: a field is unknown, of a wrong type, or contradicts another of its oneof; names the path.
    """
    values = _shape(pool(subset).FindMessageTypeByName(type_name), subset).values(body, type_name.rpartition(".")[2])
    try:
        return message_class(type_name, subset)(**values).SerializeToString(deterministic=True)
    except (TypeError, ValueError) as error:
        raise WireError(f"{type_name}: {error}") from error


def any_of(type_name: str, body: Body | None = None, subset: str = ENVOY) -> Packed:
    """Return ``body`` encoded and packed, to be shared by many bodies that hold it."""
    return Packed(PREFIX + type_name, encode(type_name, body or {}, subset))


def decode(type_name: str, data: bytes, subset: str = ENVOY) -> dict[str, Any]:
    """Return a message as protobuf's JSON mapping shows it, with field names as in the .proto files.

    Raises:
        WireError: the bytes are no such message.
    """
    try:
        message = message_class(type_name, subset).FromString(data)
    except DecodeError as error:
        raise WireError(f"no {type_name}: {error}") from error
    return MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool(subset))


@frozen(kw_only=False)
class _Shape:
    """The fields of one message: how each value is converted, and which oneof it belongs to."""

    name: str
    converters: Mapping[str, _Convert | None]
    oneofs: Mapping[str, str]

    def values(self, body: Json, path: str) -> dict[str, Any]:
        """Return the keyword arguments of the message's constructor."""
        if not isinstance(body, Mapping):
            raise WireError(f"{path}: a {self.name} is a mapping, not {body!r}")
        taken: dict[str, str] = {}
        out: dict[str, Any] = {}
        for key, value in body.items():
            if key not in self.converters:
                raise WireError(f"{path}.{key}: {self.name} has no such field")
            if value is None:
                continue
            if (oneof := self.oneofs.get(key)) and taken.setdefault(oneof, key) != key:
                raise WireError(f"{path}.{key}: {taken[oneof]} is set already, and only one of {oneof} can be")
            convert = self.converters[key]
            out[key] = convert(value, f"{path}.{key}") if convert else value
        return out


_shapes: dict[tuple[str, str], _Shape] = {}
"""Built at first use. Filled before its fields are visited again, because messages contain themselves."""


def _shape(descriptor: Descriptor, subset: str) -> _Shape:
    key = (descriptor.full_name, subset)
    if key not in _shapes:
        converters: dict[str, _Convert | None] = {}
        oneofs = {
            field.name: field.containing_oneof.name for field in descriptor.fields if field.containing_oneof is not None
        }
        _shapes[key] = _Shape(descriptor.full_name, converters, oneofs)
        converters.update({field.name: _convert_field(field, subset) for field in descriptor.fields})
    return _shapes[key]


def _convert_field(field: FieldDescriptor, subset: str) -> _Convert | None:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return _mapping(_convert_one(message.fields_by_name["value"], subset))
    one = _convert_one(field, subset)
    return _sequence(one) if field.is_repeated else one


def _convert_one(field: FieldDescriptor, subset: str) -> _Convert | None:
    if field.enum_type is not None:
        return _enum({name: value.number for name, value in field.enum_type.values_by_name.items()})
    message = field.message_type
    if message is None:
        return None
    if message.full_name in _WRAPPERS:
        return lambda value, _: {"value": value}
    special = {
        "google.protobuf.Duration": _duration,
        "google.protobuf.Struct": _struct(subset),
        "google.protobuf.Any": _any(subset),
    }.get(message.full_name)
    return special or (lambda value, path: _shape(message, subset).values(value, path))


def _mapping(one: _Convert | None) -> _Convert:
    def convert(value: Json, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise WireError(f"{path}: a mapping is wanted, not {value!r}")
        return {key: one(each, f"{path}[{key!r}]") if one else each for key, each in value.items()}

    return convert


def _sequence(one: _Convert | None) -> _Convert:
    def convert(value: Json, path: str) -> Any:
        if isinstance(value, str | bytes | Packed) or not isinstance(value, Sequence):
            raise WireError(f"{path}: a sequence is wanted, not {value!r}")
        return [one(each, f"{path}[{index}]") for index, each in enumerate(value)] if one else list(value)

    return convert


def _enum(numbers: Mapping[str, int]) -> _Convert:
    def convert(value: Json, path: str) -> Any:
        if isinstance(value, str) and value in numbers:
            return numbers[value]
        raise WireError(f"{path}: {value!r} is none of {', '.join(numbers)}")

    return convert


def _duration(value: Json, path: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"{path}: a duration is a number of seconds, not {value!r}")
    seconds, nanoseconds = divmod(round(value * 1_000_000_000), 1_000_000_000)
    return {"seconds": seconds, "nanos": nanoseconds}


def _struct(subset: str) -> _Convert:
    def convert(value: Json, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise WireError(f"{path}: a mapping is wanted, not {value!r}")
        message: Any = message_class("google.protobuf.Struct", subset)()
        try:
            message.update(value)
        except (TypeError, ValueError) as error:
            raise WireError(f"{path}: {error}") from error
        return message

    return convert


def _any(subset: str) -> _Convert:
    def convert(value: Json, path: str) -> Any:
        if isinstance(value, Packed):
            return {"type_url": value.type_url, "value": value.value}
        if not isinstance(value, Mapping) or not isinstance(value.get("@type"), str):
            raise WireError(f"{path}: an Any names its type under '@type'")
        type_name = str(value["@type"]).removeprefix(PREFIX)
        return any_of(type_name, {key: each for key, each in value.items() if key != "@type"}, subset)._asdict()

    return convert
