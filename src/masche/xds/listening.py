"""Where a control plane listens for xDS beside its TCP port: a Unix socket of its own.

Whoever owns the one gRPC server of a process takes these parts; nothing here starts a server. A TCP port belongs to it
with ``identity.tls.mutual_server_credentials`` only; what asks for no certificate is a socket that its owner can open.
"""

import os
from pathlib import Path

import grpc.aio


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
