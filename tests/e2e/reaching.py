"""How a job reaches its mesh with a socket in its hands: local addresses, the explicit proxy, and its tunnels."""

import http.client
import socket
from typing import Any

from e2e.mesh import Instance


def place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return host, int(port)


def addr(caller: Instance, service: str) -> tuple[str, int]:
    return place(caller.environment[f"{service.upper()}_ADDR"])


def proxy(caller: Instance) -> tuple[str, int]:
    return place(caller.environment["HTTP_PROXY"])


def tunnel(caller: Instance, target: str) -> socket.socket:
    """A connection through CONNECT; raises PermissionError with what the proxy said."""
    connection = socket.create_connection(proxy(caller), timeout=20)
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := connection.recv(1)):
            break
        head += byte
    if b" 200 " in head.split(b"\r\n")[0]:
        return connection
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    body = connection.recv(length) if length else b""
    connection.close()
    raise PermissionError(f"{head.decode()}{body.decode()}")


def exchange(connection: http.client.HTTPConnection, method: str, path: str, **more: Any) -> tuple[int, bytes]:
    connection.request(method, path, **more)
    response = connection.getresponse()
    return response.status, response.read()
