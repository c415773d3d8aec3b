"""Leave of descriptors what a library reads of them: most that a process would hold is of messages that it never opens.

What no decoder knows by name it cannot read: such a field stays, so that it is noticed when it is set, and its message
is bytes. Invariant: every field of a message that is read keeps its name, its number and how it is written.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

DECODERS = Path(__file__).resolve().parent.parent / "src" / "masche" / "wire" / "decode"

_TYPED = {FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM}


def words(folder: Path = DECODERS) -> frozenset[str]:
    """Return every word in the sources of the decoders, names of fields among them."""
    return frozenset(word for path in folder.glob("*.py") for word in re.findall(r"\w+", path.read_text()))


def pruned(descriptors: FileDescriptorSet, roots: Sequence[str], known: frozenset[str]) -> FileDescriptorSet:
    """Return, in the same order, what messages of the files ``roots`` come to by fields whose names are ``known``."""
    found = FileDescriptorSet()
    found.CopyFrom(descriptors)
    messages = {name: each for file in found.file for name, each in _messages(f".{file.package}", file.message_type)}
    _blind(messages, known)
    tops = (f".{file.package}.{each.name}" for file in found.file if file.name in roots for each in file.message_type)
    reached = _reached(messages, tops)
    for file in found.file:
        _strip(file, reached)
    kept = [file for file in found.file if file.message_type or file.enum_type]
    _link(kept)
    return FileDescriptorSet(file=kept)


def _messages(scope: str, messages: Iterable[DescriptorProto]) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name, message
        yield from _messages(name, message.nested_type)


def _blind(messages: dict[str, DescriptorProto], known: frozenset[str]) -> None:
    """Make bytes of the messages in fields that no decoder knows."""
    for name, message in messages.items():
        if not (name.startswith(".google.protobuf.") or message.options.map_entry):
            for field in message.field:
                if field.type == FieldDescriptorProto.TYPE_MESSAGE and field.name not in known:
                    field.type = FieldDescriptorProto.TYPE_BYTES
                    field.ClearField("type_name")


def _reached(messages: dict[str, DescriptorProto], roots: Iterable[str]) -> frozenset[str]:
    """Return the names of all messages and enums that the roots come to."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += (
                [field.type_name for field in messages[name].field if field.type in _TYPED] if name in messages else []
            )
    return frozenset(found)


def _strip(file: FileDescriptorProto, reached: frozenset[str]) -> None:
    """Take out of a file what is not reached, and all that only compilers and people read."""
    for name in ("options", "service", "extension", "source_code_info", "public_dependency", "weak_dependency"):
        file.ClearField(name)
    _keep(file.message_type, [each for each in file.message_type if _is_kept(f".{file.package}", each, reached)])
    _keep(file.enum_type, [each for each in file.enum_type if f".{file.package}.{each.name}" in reached])
    for each in file.enum_type:
        _strip_enum(each)


def _is_kept(scope: str, message: DescriptorProto, reached: frozenset[str]) -> bool:
    """Strip a message; return whether it is reached, or something is that is defined within it."""
    name = f"{scope}.{message.name}"
    is_map, is_reached = message.options.map_entry, name in reached
    for each in ("options", "extension", "extension_range", "reserved_range", "reserved_name"):
        message.ClearField(each)
    if is_map:
        message.options.map_entry = True
    for field in message.field:
        packed = field.options.packed if field.options.HasField("packed") else None
        field.ClearField("options")
        field.ClearField("json_name")
        if packed is not None:
            field.options.packed = packed
    for one in message.oneof_decl:
        one.ClearField("options")
    if not is_reached:
        message.ClearField("field")
        message.ClearField("oneof_decl")
    _keep(message.nested_type, [each for each in message.nested_type if _is_kept(name, each, reached)])
    _keep(message.enum_type, [each for each in message.enum_type if f"{name}.{each.name}" in reached])
    for each in message.enum_type:
        _strip_enum(each)
    return is_reached or bool(message.nested_type) or bool(message.enum_type)


def _strip_enum(enum: EnumDescriptorProto) -> None:
    has_aliases = enum.options.allow_alias
    for name in ("options", "reserved_range", "reserved_name"):
        enum.ClearField(name)
    if has_aliases:
        enum.options.allow_alias = True
    for value in enum.value:
        value.ClearField("options")


def _keep(repeated: Any, kept: Sequence[object]) -> None:
    """Let a repeated field hold these of its own messages."""
    copies = [type(each).FromString(each.SerializeToString()) for each in kept]
    del repeated[:]
    repeated.extend(copies)


def _link(files: Sequence[FileDescriptorProto]) -> None:
    """Let each file import the files of what its fields refer to, and no other."""
    home = {name: file.name for file in files for name in _names(file)}
    for file in files:
        fields = (field for _, message in _messages("", file.message_type) for field in message.field)
        needed = {home[field.type_name] for field in fields if field.type in _TYPED} - {file.name}
        file.ClearField("dependency")
        file.dependency.extend(sorted(needed))


def _names(file: FileDescriptorProto) -> Iterator[str]:
    scope = f".{file.package}"
    yield from (f"{scope}.{each.name}" for each in file.enum_type)
    for name, message in _messages(scope, file.message_type):
        yield name
        yield from (f"{name}.{each.name}" for each in message.enum_type)
