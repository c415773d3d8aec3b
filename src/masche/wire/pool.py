"""Envoy's message types, in descriptor pools of our own.

Private, because the process may hold other versions of the same files (opentelemetry, googleapis) in the default pool.
Invariant: a pool has exactly the messages that the Envoy we ship was compiled with.
"""

import lzma
from functools import cache
from importlib.resources import files

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from masche.wire import framing

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
