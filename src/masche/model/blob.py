"""One encoded xDS resource, shared by every proxy that receives it.

The version is the hash of the content, so a control plane that restarted agrees with the one before it.
"""

from masche.model.frozen import frozen
from masche.model.refs import Ref


@frozen
class Blob:
    """Name, type and the bytes that go on the wire.

    ``frame`` is a complete field ``resources`` (number 2) of a DeltaDiscoveryResponse: tag, length, and a ``Resource``
    whose ``Any`` comes last. ``frame[any_at:]`` is therefore a complete field ``resources`` (number 2 as well) of a
    state-of-the-world DiscoveryResponse. ``version`` is blake2b-128 of the ``Any``, in hex. ``refs`` are the resources
    that a rejection of this Blob must be reported on. ``eds_name`` is set on clusters that get their endpoints by EDS.
    """

    type_url: str
    name: str
    version: str
    frame: bytes
    any_at: int
    refs: frozenset[Ref] = frozenset()
    eds_name: str = ""

    def __repr__(self) -> str:
        return f"<Blob {self.type_url.rpartition('.')[2]} {self.name} {self.version[:8]} {len(self.frame)} bytes>"
