"""Ports for a benchmark: free ones below the range from which an agent takes its own."""

import socket

FIRST, LAST = 5000, 9900
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback address that nobody has, given once."""
    for port in range(FIRST, LAST):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise SystemExit(f"no free port between {FIRST} and {LAST}")
