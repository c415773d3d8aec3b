"""What is done and tried inside the network namespace of a captured application."""

import http.client
import json
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import dns.message
import dns.query

from e2e.calling import Answer, call, status_of
from e2e.mesh import Instance
from masche.agent.capture.inside import enter_namespace, keep_apart, user
from masche.agent.capture.sockets import in_namespace, open_in

SYSTEM_PYTHON = "/usr/bin/python3"
"""One that an ordinary user may run, too."""


def inside(instance: Instance) -> str:
    """The file of an instance's network namespace."""
    path = instance.seat.namespace_path
    assert path, f"{instance.name} is not captured"
    return path


def calls(instance: Instance, url: str, **options: Any) -> Answer:
    """One request as the application of this instance makes it."""
    return in_namespace(inside(instance), lambda: call(url, **options))


def status(instance: Instance, url: str, **options: Any) -> int:
    """The status of one such request; 0 when there was no answer."""
    return in_namespace(inside(instance), lambda: status_of(url, **options))


def calls_from(source: str, host: str, port: int = 80) -> Answer:
    """One request from an address of this machine."""
    with closing(http.client.HTTPConnection(host, port, timeout=10, source_address=(source, 0))) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())


def looked_up(source: str, name: str) -> str:
    """The IPv4 address that a name has for whoever asks from this address of the machine."""
    query = dns.message.make_query(name, "A")
    answer = dns.query.udp(query, "192.0.2.53", timeout=10, source=source)
    return next(str(each) for found in answer.answer for each in found)


def greeting(instance: Instance, host: str, port: int) -> str:
    """What a server that speaks first says."""

    def ask() -> str:
        with socket.create_connection((host, port), timeout=10) as connection:
            return connection.makefile().readline().strip()

    return in_namespace(inside(instance), ask)


def typical_wait(instance: Instance, host: str, port: int, *, times: int = 9) -> float:
    """Seconds from a connection's begin to the first word of a server that speaks first, the median."""

    def one() -> float:
        began = time.monotonic()
        assert greeting(instance, host, port)
        return time.monotonic() - began

    return statistics.median(one() for _ in range(times))


@contextmanager
def greeter(address: str, name: str) -> Iterator[int]:
    """A server outside the mesh that speaks first; yields its port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.create_server((address, 0), family=family)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(f"hello from {name}\n".encode())

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)


def tried_by_an_ordinary_user(instance: Instance, script: str, *arguments: str) -> Any:
    """What a script of Python says, in JSON, that an ordinary user runs where the application runs."""
    path = inside(instance)
    nobody = user("nobody")

    def become() -> None:
        enter_namespace(path)
        keep_apart()
        nobody.become()

    done = subprocess.run(
        [SYSTEM_PYTHON, "-I", "-c", script, *arguments],
        preexec_fn=become,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def plain(address: str, port: int, *, within: float = 5.0) -> bytes:
    """What a caller without the mesh gets from the application's own address and port; b"" when it is turned away."""
    with socket.socket() as connection:
        connection.settimeout(within)
        try:
            connection.connect((address, port))
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            return connection.recv(4096)
        except OSError:
            return b""


def is_open(namespace: str, address: str, port: int) -> bool:
    """Whether somebody listens there."""
    with open_in(namespace) as probe:
        probe.settimeout(5)
        return probe.connect_ex((address, port)) == 0
