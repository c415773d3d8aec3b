"""Where a control plane listens for xDS: the options of its gRPC server, and a Unix socket of its own.

Whoever owns the one gRPC server of a process takes these parts; nothing here starts a server. A TCP port belongs to it
with ``identity.tls.mutual_server_credentials`` only; what asks for no certificate is a socket that its owner can open.
"""

import os
from pathlib import Path

import grpc.aio

from masche.wire.discovery import MAX_REQUEST_BYTES

_MANY = 1_000_000


def options(*, max_receive_bytes: int = MAX_REQUEST_BYTES) -> tuple[tuple[str, int], ...]:
    """Return the channel arguments of a server that carries xDS.

    A burst of streams (every proxy after a restart) is queued and not lost; a peer that vanished without a word is
    noticed within 30 s; a proxy may ping as often as every 5 s; a stranger can make us hold little.
    """
    return (
        ("grpc.server.max_pending_requests", _MANY),
        ("grpc.server.max_pending_requests_hard_limit", _MANY),
        ("grpc.max_concurrent_streams", 4096),
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),  # without it grpcio never gives up on a peer that stopped answering
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    )


def bind_unix(server: grpc.aio.Server, path: Path) -> None:
    """Listen on a Unix socket with mode 0600, replacing one that a process that is gone left behind.

    The socket has its mode from the moment it exists: the umask is narrowed while it is made. Call it before threads
    that create files are running.

    Raises:
        OSError, RuntimeError: the path cannot be bound.
    """
    if path.is_socket():
        path.unlink()
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(before)
