"""The messages of the xDS protocol itself, delta and state of the world, as plain records.

Requests come from outside and are parsed by protobuf; responses are written, and read, frame by frame, so that a
resource is the same bytes from the encoder to Envoy. Invariant: what is decoded is within the bounds given here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message

from masche.model.frozen import frozen
from masche.wire import framing
from masche.wire.framing import WireError
from masche.wire.pool import DISCOVERY, message_class

RESOURCE = "type.googleapis.com/envoy.service.discovery.v3.Resource"
"""What a control plane may put around a resource to give it a name or a version of its own."""

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""A reconnecting proxy names every resource it holds; 16 MiB are more than 100,000 of them."""

MAX_NAMES = 200_000
"""How many resources one request may name."""

MAX_NAME_BYTES = 2048
"""How long one name, version, nonce or type URL may be."""

MAX_ERROR_CHARACTERS = 16_384
"""How much of Envoy's explanation of a rejection is kept."""


@frozen
class DeltaRequest:
    """A DeltaDiscoveryRequest. ``error_code`` 0 is an acknowledgement (or a first request, when ``nonce`` is empty)."""

    type_url: str
    node_id: str = ""
    nonce: str = ""
    error_code: int = 0
    error_message: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict[str, str])


@frozen
class SotwRequest:
    """A DiscoveryRequest of the state-of-the-world variant; ``version`` is the last one that was accepted."""

    type_url: str
    node_id: str = ""
    version: str = ""
    nonce: str = ""
    error_code: int = 0
    error_message: str = ""
    names: tuple[str, ...] = ()


class Framed(NamedTuple):
    """One resource of a response. ``frame`` is its complete field, ready to be sent again as it is."""

    name: str
    version: str
    frame: bytes


@frozen
class DeltaResponse:
    """A DeltaDiscoveryResponse with its resources left encoded."""

    type_url: str
    nonce: str
    version: str = ""
    resources: tuple[Framed, ...] = ()
    removed: tuple[str, ...] = ()


@frozen
class Node:
    """Who asks, for a control plane that decides by more than an id. ``metadata`` is JSON."""

    id: str
    cluster: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    region: str = ""
    zone: str = ""
    sub_zone: str = ""
    agent: str = ""
    agent_version: str = ""
    features: tuple[str, ...] = ()


class Unpacked(NamedTuple):
    """A resource taken out of its ``Any``: its type, its name, and its own message, still encoded."""

    type_url: str
    name: str
    message: bytes


@frozen
class SotwResponse:
    """A DiscoveryResponse; ``resources`` are the bytes of each ``google.protobuf.Any``."""

    type_url: str
    nonce: str
    version: str = ""
    resources: tuple[bytes, ...] = ()


def decode_delta_request(data: bytes) -> DeltaRequest:
    """Read a DeltaDiscoveryRequest.

    Raises:
        WireError: the bytes are no such message, or exceed a bound of this module.
    """
    raw = _parsed("envoy.service.discovery.v3.DeltaDiscoveryRequest", data)
    return DeltaRequest(
        type_url=_bounded(raw.type_url),
        node_id=_bounded(raw.node.id),
        nonce=_bounded(raw.response_nonce),
        error_code=_error_code(raw),
        error_message=raw.error_detail.message[:MAX_ERROR_CHARACTERS],
        subscribe=_names(raw.resource_names_subscribe),
        unsubscribe=_names(raw.resource_names_unsubscribe),
        initial_versions=dict(
            zip(_names(raw.initial_resource_versions), raw.initial_resource_versions.values(), strict=True)
        ),
    )


def encode_delta_request(request: DeltaRequest) -> bytes:
    """Write a DeltaDiscoveryRequest, for clients and for the relay."""
    message = message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest", DISCOVERY)(
        node={"id": request.node_id} if request.node_id else None,
        type_url=request.type_url,
        response_nonce=request.nonce,
        error_detail=_error_detail(request.error_code, request.error_message),
        resource_names_subscribe=request.subscribe,
        resource_names_unsubscribe=request.unsubscribe,
        initial_resource_versions=dict(request.initial_versions),
    )
    return message.SerializeToString(deterministic=True)


def encode_delta_response(
    type_url: str, nonce: str, frames: Iterable[bytes], removed: Iterable[str] = (), version: str = ""
) -> bytes:
    """Write a DeltaDiscoveryResponse around the frames of Blobs: a header and a join, nothing is encoded again."""
    parts = [framing.text(1, version), *frames, framing.text(4, type_url), framing.text(5, nonce)]
    parts += [framing.field(6, name.encode()) for name in removed]
    return b"".join(parts)


def decode_delta_response(data: bytes) -> DeltaResponse:
    """Read a DeltaDiscoveryResponse, leaving each resource in its frame.

    Raises:
        WireError: the bytes are no such message.
    """
    texts: dict[int, str] = {}
    resources: list[Framed] = []
    removed: list[str] = []
    for part in framing.fields(data):
        if part.number == 2:
            resources.append(_framed(data[part.start : part.end], data[part.value : part.end]))
        elif part.number == 6:
            removed.append(_text(data[part.value : part.end]))
        elif part.number in {1, 4, 5}:
            texts[part.number] = _text(data[part.value : part.end])
    return DeltaResponse(
        type_url=texts.get(4, ""),
        nonce=texts.get(5, ""),
        version=texts.get(1, ""),
        resources=tuple(resources),
        removed=tuple(removed),
    )


def decode_sotw_request(data: bytes) -> SotwRequest:
    """Read a DiscoveryRequest.

    Raises:
        WireError: the bytes are no such message, or exceed a bound of this module.
    """
    raw = _parsed("envoy.service.discovery.v3.DiscoveryRequest", data)
    return SotwRequest(
        type_url=_bounded(raw.type_url),
        node_id=_bounded(raw.node.id),
        version=_bounded(raw.version_info),
        nonce=_bounded(raw.response_nonce),
        error_code=_error_code(raw),
        error_message=raw.error_detail.message[:MAX_ERROR_CHARACTERS],
        names=_names(raw.resource_names),
    )


def encode_node(node: Node) -> bytes:
    """Write a Node, for the first request of each stream."""
    message = message_class("envoy.config.core.v3.Node", DISCOVERY)(
        id=node.id,
        cluster=node.cluster,
        metadata=dict(node.metadata) or None,
        locality={"region": node.region, "zone": node.zone, "sub_zone": node.sub_zone},
        user_agent_name=node.agent,
        user_agent_version=node.agent_version,
        client_features=node.features,
    )
    return message.SerializeToString(deterministic=True)


def encode_sotw_request(request: SotwRequest, *, node: bytes = b"") -> bytes:
    """Write a DiscoveryRequest, for clients; ``node`` is a whole one, encoded, where its id alone is too little."""
    message = message_class("envoy.service.discovery.v3.DiscoveryRequest", DISCOVERY)(
        node={"id": request.node_id} if request.node_id else None,
        version_info=request.version,
        type_url=request.type_url,
        response_nonce=request.nonce,
        error_detail=_error_detail(request.error_code, request.error_message),
        resource_names=request.names,
    )
    head = framing.field(2, node) if node else b""
    return head + message.SerializeToString(deterministic=True)


def encode_sotw_response(type_url: str, nonce: str, frames: Iterable[bytes], version: str) -> bytes:
    """Write a DiscoveryResponse around frames made by ``framing.sotw_frame``."""
    parts = (framing.text(1, version), *frames, framing.text(4, type_url), framing.text(5, nonce))
    return b"".join(parts)


def decode_sotw_response(data: bytes) -> SotwResponse:
    """Read a DiscoveryResponse, leaving each resource encoded.

    Raises:
        WireError: the bytes are no such message.
    """
    texts: dict[int, str] = {}
    resources: list[bytes] = []
    for part in framing.fields(data):
        if part.number == 2:
            resources.append(data[part.value : part.end])
        elif part.number in {1, 4, 5}:
            texts[part.number] = _text(data[part.value : part.end])
    return SotwResponse(
        type_url=texts.get(4, ""), nonce=texts.get(5, ""), version=texts.get(1, ""), resources=tuple(resources)
    )


def unpacked(any_bytes: bytes) -> Unpacked:
    """Take a resource out of its ``Any``, and out of ``envoy.service.discovery.v3.Resource`` if it is in one.

    Every type of resource that is asked for by name has its name as its first field.

    Raises:
        WireError: the bytes are no such message.
    """
    type_url, message = _opened(any_bytes)
    if type_url != RESOURCE:
        return Unpacked(type_url, _name_of(message, 1), message)
    inner = next((message[part.value : part.end] for part in framing.fields(message) if part.number == 2), b"")
    name = _name_of(message, 3)
    type_url, message = _opened(inner)
    return Unpacked(type_url, name or _name_of(message, 1), message)


def _opened(any_bytes: bytes) -> tuple[str, bytes]:
    type_url, message = "", b""
    for part in framing.fields(any_bytes):
        if part.number == 1:
            type_url = _text(any_bytes[part.value : part.end])
        elif part.number == 2:
            message = any_bytes[part.value : part.end]
    return type_url, message


def _name_of(message: bytes, number: int) -> str:
    """Return the string field ``number``. It comes first when it was written in order, and is then all that is read."""
    for part in framing.fields(message):
        if part.number == number and part.wire_type == framing.LENGTH_DELIMITED:
            return _bounded(_text(message[part.value : part.end]))
    return ""


def _parsed(type_name: str, data: bytes) -> Any:
    """Parse by protobuf. The result is dynamic: its fields are known to the descriptor, not to the type checker."""
    if len(data) > MAX_REQUEST_BYTES:
        raise WireError(f"a discovery request of {len(data)} bytes; at most {MAX_REQUEST_BYTES} are accepted")
    try:
        message: Message = message_class(type_name, DISCOVERY).FromString(data)
    except DecodeError as error:
        raise WireError(f"no {type_name}: {error}") from error
    return message


def _bounded(value: str) -> str:
    if len(value) > MAX_NAME_BYTES:
        raise WireError(f"a name of {len(value)} characters; at most {MAX_NAME_BYTES} are accepted")
    return value


def _names(values: Iterable[str]) -> tuple[str, ...]:
    names = tuple(values)
    if len(names) > MAX_NAMES:
        raise WireError(f"{len(names)} names in one request; at most {MAX_NAMES} are accepted")
    return tuple(_bounded(name) for name in names)


def _error_code(raw: Any) -> int:
    """Return the code of a rejection; Envoy may leave it 0, and a rejection must never read as an acknowledgement."""
    return (raw.error_detail.code or 2) if raw.HasField("error_detail") else 0


def _error_detail(code: int, message: str) -> dict[str, Any] | None:
    return {"code": code, "message": message} if code else None


def _framed(frame: bytes, resource: bytes) -> Framed:
    name = version = ""
    for part in framing.fields(resource):
        if part.number == 3:
            name = _text(resource[part.value : part.end])
        elif part.number == 1:
            version = _text(resource[part.value : part.end])
    return Framed(name, version, frame)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"a string that is not UTF-8: {error}") from error
