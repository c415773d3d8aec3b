"""Whether an application answers: TCP connect, an HTTP request or gRPC health, and what follows from it.

A workload is STARTING until the first success, UNHEALTHY after three failures in a row, READY again after one success.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from masche.model.frozen import frozen

INTERVAL = 1.0
"""Seconds between probes of a running application."""

FIRST_INTERVAL = 0.1
"""Seconds between probes while it starts, so that it takes traffic as soon as it can."""

WITHIN = 1.0
"""Seconds that one probe may take."""

FAILURES_TO_UNHEALTHY = 3

SERVER_ERROR = 500
"""From this status on an answer says that the server failed, and not the question."""

Probe = Callable[[], Awaitable[str]]
"""One question; answers "" when the application is well, otherwise what is wrong."""

Connect = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a connection to an address and a port: of this network namespace, or of the application's. Raises OSError."""


class HealthError(ValueError):
    """``--health`` is none of the forms that exist."""


@frozen
class Pulse:
    """What is known of an application's health. A value: ``after`` returns the next one."""

    phase: str = "STARTING"
    reason: str = ""
    failures: int = 0

    def after(self, error: str) -> "Pulse":
        """The pulse after one more probe; ``error`` "" is a success."""
        if not error:
            return Pulse(phase="READY")
        failures = self.failures + 1
        is_down = self.phase == "READY" and failures >= FAILURES_TO_UNHEALTHY
        return replace(self, phase="UNHEALTHY" if is_down else self.phase, reason=error, failures=failures)

    @property
    def interval(self) -> float:
        """Seconds until the next probe."""
        is_young = self.phase == "STARTING" and self.failures * FIRST_INTERVAL < 30.0
        return FIRST_INTERVAL if is_young else INTERVAL


def parse(
    health: str, address: str, port: int, *, connect: Connect = asyncio.open_connection, channel: str = ""
) -> Probe | None:
    """The probe that ``--health`` asks for; None for ``none``. Raises HealthError.

    ``connect`` and ``channel`` (a target of gRPC) lead to an application that is not in our network namespace.
    """
    kind, _, rest = health.partition(":")
    match kind:
        case "none" if not rest:
            return None
        case "tcp" if not rest:
            return lambda: _tcp(address, port, connect)
        case "http" if rest.startswith("/") and rest.isprintable() and " " not in rest:
            return lambda: _http(address, port, rest, connect)
        case "grpc" if rest.isascii() and rest.isprintable() and len(rest) < 128:
            return lambda: _grpc(channel or f"{address}:{port}", rest)
        case _:
            raise HealthError(f"--health {health!r} is none of tcp, http:/path, grpc, grpc:<service>, none")


async def _tcp(address: str, port: int, connect: Connect) -> str:
    try:
        async with asyncio.timeout(WITHIN):
            _, writer = await connect(address, port)
    except TimeoutError:
        return f"no connection to {address}:{port} within {WITHIN:g} s"
    except OSError as error:
        return f"{address}:{port}: {_reason(error)}"
    writer.close()
    return ""


def _reason(error: OSError) -> str:
    """The kernel's own words; asyncio puts others in their place."""
    return os.strerror(error.errno) if error.errno else str(error)


async def _http(address: str, port: int, path: str, connect: Connect) -> str:
    """Any status from 200 to 399 is a success, as Kubernetes has it."""
    try:
        code = await _status(address, port, path, connect)
    except OSError as error:
        return f"GET {path}: {error}"
    if not code:
        return f"GET {path}: the answer is no HTTP"
    return "" if 200 <= code < 400 else f"GET {path}: status {code}"


async def failing(address: str, port: int, *, connect: Connect = asyncio.open_connection) -> str:
    """Say how an application of which no path is known fails what it is asked; "" when it answers at all sensibly.

    It may not know the path, nor let anybody in: only an error of its own tells. Who does not speak HTTP/1.1 is asked
    in HTTP/2.
    """
    try:
        code = await _status(address, port, "/", connect)
    except OSError as error:
        return f"GET /: {error}"
    if not code:
        with suppress(OSError):  # it has answered something, and that it says nothing to this may be our fault
            code = await _status(address, port, "/", connect, is_h2=True)
    return f"GET /: status {code}" if code >= SERVER_ERROR else ""


async def _status(address: str, port: int, path: str, connect: Connect, *, is_h2: bool = False) -> int:
    """The status of the answer, 0 when it is no HTTP. Raises OSError, in words for people: there is none."""
    writer = None
    try:
        async with asyncio.timeout(WITHIN):
            reader, writer = await connect(address, port)
            if is_h2:
                from masche.link import h2_question  # few speak nothing else

                return await h2_question.status(reader, writer, path, f"{address}:{port}")
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {address}:{port}\r\nconnection: close\r\n\r\n".encode())
            status = (await reader.readline()).split(b" ")
    except TimeoutError as error:
        raise OSError(f"no answer within {WITHIN:g} s") from error
    except OSError as error:
        raise OSError(_reason(error)) from error
    except ValueError:
        return 0
    finally:
        if writer:
            writer.close()
    is_http = len(status) > 1 and status[0].startswith(b"HTTP/1") and len(status[1]) == 3 and status[1].isdigit()
    return int(status[1]) if is_http else 0


async def _grpc(target: str, service: str) -> str:
    """Ask ``grpc.health.v1.Health/Check``; the messages are one string and one enum, written and read by hand."""
    import grpc.aio  # most are never asked by gRPC, and need not load it

    library: Any = grpc  # the stubs of grpc.aio leave the parameters of their generics open
    name = service.encode()
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    async with library.aio.insecure_channel(target, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            reply: bytes = await channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=WITHIN)
        except grpc.aio.AioRpcError as error:
            return f"grpc health: {error.code().name}: {error.details()}"
    return "" if reply.startswith(b"\x08\x01") else "grpc health: not SERVING"
