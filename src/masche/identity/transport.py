"""How gRPC is set up on both ends of every connection of the mesh: how soon a dead peer is noticed, and what is taken.

One server of a control plane carries xDS and the link, so both speak of it here. A peer that vanished without a word is
noticed within 15 s by either end.
"""

from typing import Any, Final

import grpc.aio

from masche.identity import tls
from masche.identity.presented import Presented

Options = tuple[tuple[str, Any], ...]

_MANY: Final = 1_000_000

_KEEPALIVE: Final[Options] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # gRPC waits a minute for a ping otherwise, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
)


def channel(address: str, presented: Presented | None, *, max_receive_bytes: int) -> grpc.aio.Channel:
    """An agent's end: ``host:port`` with what this machine shows, or ``unix:/path`` with None.

    ``max_receive_bytes`` -1 takes messages of any size. A new channel never gets a broken connection of the last one.
    """
    options = client(max_receive_bytes=max_receive_bytes)
    if presented is None:
        return grpc.aio.insecure_channel(address, options=options)
    credentials = tls.channel_credentials(presented)
    return grpc.aio.secure_channel(address, credentials, options=(*options, *tls.CHANNEL_OPTIONS))


def client(*, max_receive_bytes: int) -> Options:
    """Any client's end, also of a server that is not ours."""
    return (
        *_KEEPALIVE,
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    )


def server(*, max_receive_bytes: int) -> Options:
    """A control plane's end. A message above ``max_receive_bytes`` ends its call.

    A burst of streams (every proxy after a restart) is queued and not lost; a peer may ping as often as every 5 s; a
    stranger can make us hold little; a port has one server.
    """
    return (
        *_KEEPALIVE,
        ("grpc.server.max_pending_requests", _MANY),
        ("grpc.server.max_pending_requests_hard_limit", _MANY),
        ("grpc.max_concurrent_streams", 4096),
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    )


def door(*, max_receive_bytes: int) -> Options:
    """The end that strangers reach: little is read, and nobody stays."""
    return (
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_metadata_size", 8 << 10),
        ("grpc.max_connection_age_ms", 30_000),
        ("grpc.max_connection_age_grace_ms", 5_000),
        ("grpc.so_reuseport", 0),
    )
