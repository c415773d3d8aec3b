"""The last good resources of a disk cache, as what a local proxy should hold while no control plane is there.

An agent keeps, per type and name, the frames that its Envoy acknowledged; ``wanted_from_frames`` turns them back into
Blobs, and the same ``Stream`` that a control plane uses serves them. Invariant: a frame comes out as it went in, so its
version is the one that a control plane knows and nothing is sent twice when it is back.
"""

from collections.abc import Iterable

from masche.model.blob import Blob
from masche.wire import framing
from masche.wire.discovery import Framed
from masche.wire.framing import Field, WireError
from masche.wire.types import CLUSTER
from masche.xds.wanted import Table, Wanted

_EDS = 3  # Cluster.DiscoveryType.EDS


def wanted_from_frames(frames: Iterable[tuple[str, Iterable[Framed]]]) -> Wanted:
    """Return what a proxy should hold, from ``(type URL, frames)`` pairs.

    Raises:
        WireError: a frame is not one resource of a DeltaDiscoveryResponse whose Any comes last; nothing is served from
            a cache that is not whole.
    """
    return Wanted({kind: Table(blob_from_frame(kind, framed) for framed in group) for kind, group in frames})


def blob_from_frame(type_url: str, framed: Framed) -> Blob:
    """Return the Blob that has this frame.

    Raises:
        WireError: it is not one resource whose Any comes last.
    """
    frame = framed.frame
    try:
        outer = next(framing.fields(frame))
    except StopIteration as error:
        raise WireError("an empty frame is no resource") from error
    parts = list(_within(frame, outer))
    if outer.end != len(frame) or not parts or parts[-1].number != 2:
        raise WireError(f"the frame of {framed.name} is not one resource whose Any comes last")
    blob = Blob(
        type_url=type_url, name=framed.name, version=framed.version, frame=frame, any_at=outer.value + parts[-1].start
    )
    return _with_endpoints(blob) if type_url == CLUSTER else blob


def _within(data: bytes, part: Field) -> Iterable[Field]:
    return framing.fields(data[part.value : part.end])


def _with_endpoints(blob: Blob) -> Blob:
    """Find out, without Envoy's descriptors, whether a cluster gets its endpoints by EDS, and under which name."""
    cluster = framing.message_of(blob)
    fields = {part.number: part for part in framing.fields(cluster)}
    kind, config = fields.get(2), fields.get(3)
    if kind is None or cluster[kind.value] != _EDS:
        return blob
    service_name = _text(cluster[config.value : config.end], 2) if config else ""
    return Blob(
        type_url=blob.type_url,
        name=blob.name,
        version=blob.version,
        frame=blob.frame,
        any_at=blob.any_at,
        eds_name=service_name or blob.name,
    )


def _text(message: bytes, number: int) -> str:
    return next(
        (message[part.value : part.end].decode() for part in framing.fields(message) if part.number == number), ""
    )
