"""Envoy's message types, in descriptor pools of our own.

Private, because the process may hold other versions of the same files (opentelemetry, googleapis) in the default pool.
Invariant: a pool has exactly the messages that the Envoy we ship was compiled with.

What protobuf's ``descriptor_pool`` and ``message_factory`` load (its engine in Python, the text format) weighs more
than the descriptors of a library. Where messages are carried out in C, nothing of it is needed, and it is not loaded.
"""

import lzma
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from google.protobuf.internal import api_implementation
from google.protobuf.message import Message

from masche.wire import framing

if TYPE_CHECKING or api_implementation.Type() != "upb":
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
else:
    from google._upb._message import DescriptorPool
    from google.protobuf.pyext.cpp_message import GeneratedProtocolMessageType

    def GetMessageClass(descriptor: "Descriptor") -> type[Message]:  # noqa: N802 # in the place of protobuf's own
        """Return the class of a message, made with those of all its fields when it is first asked for, as upstream."""
        found: type[Message] | None = getattr(descriptor, "_concrete_class", None)
        if found is None:
            found = GeneratedProtocolMessageType(
                descriptor.name, (Message,), {"DESCRIPTOR": descriptor, "__module__": None}
            )
            for each in descriptor.fields:
                if each.message_type is not None:
                    GetMessageClass(each.message_type)
        return found


DISCOVERY = "discovery"
"""The subset that an agent needs: the discovery messages and Secret."""

LIBRARY = "library"
"""The subset that a library needs: the resources that it decodes for itself."""

ENVOY = "envoy"
"""Everything."""


@cache
def pool(subset: str = ENVOY) -> DescriptorPool:
    """Return the pool of ``ENVOY``, ``DISCOVERY`` or ``LIBRARY``, read from package data at its first use."""
    described = lzma.decompress(files("masche.wire").joinpath(f"{subset}.binpb.xz").read_bytes())
    found = DescriptorPool()
    for file in framing.fields(described):  # of a FileDescriptorSet; parsed, it would weigh as much again for good
        found.AddSerializedFile(described[file.value : file.end])
    return found


@cache
def message_class(type_name: str, subset: str = ENVOY) -> type[Message]:
    """Return the class of a message by its full name.

    Raises:
        KeyError: this Envoy has no such message.
    """
    return GetMessageClass(pool(subset).FindMessageTypeByName(type_name))
