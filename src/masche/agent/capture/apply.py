"""The programs that change the host, ``ip`` and ``nft``, and a look at what is there. The only place that runs them."""

import asyncio
import json
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from masche.agent.capture.names import INNER, NAMESPACES, Names, path_of
from masche.agent.capture.plan import Found
from masche.agent.capture.sockets import in_namespace

WITHIN = 20.0
"""Seconds that one program may take; usual are some milliseconds."""

USABLE_WITHIN = 2.0
"""The longest wait for a new IPv6 address; then whoever uses it at once may be refused, and IPv4 serves."""

_OWN = Path("/proc/self/ns/net")


class CaptureError(Exception):
    """The host cannot be set up; ``fix`` says what to change."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


class Shell:
    """Runs the programs. Tests put one in its place that dies at a step."""

    async def run(self, arguments: Sequence[str], given: str = "") -> str:
        """Run one to its end and return what it said. Raises CaptureError."""
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise CaptureError(f"{arguments[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(WITHIN):
                said, complained = await process.communicate(given.encode())
        except BaseException as error:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise CaptureError(f"`{' '.join(arguments)}` did not end within {WITHIN:g} s") from error
            raise
        if process.returncode:
            words = complained.decode(errors="replace").strip()
            raise CaptureError(f"`{' '.join(arguments)}` failed: {words}")
        return said.decode()

    async def links(self, lines: Iterable[str], namespace: str = "") -> None:
        """Give ``ip`` a batch, on the host or in a namespace. Raises CaptureError."""
        text = "".join(f"{line}\n" for line in lines)
        if text:
            inside = ("-n", namespace) if namespace else ()
            await self.run(("ip", *inside, "-batch", "-"), text)

    async def rules(self, text: str, namespace: str = "") -> None:
        """Give ``nft`` one transaction, on the host or in a namespace. Raises CaptureError."""
        inside = ("nsenter", f"--net={path_of(namespace)}") if namespace else ()
        await self.run((*inside, "nft", "-f", "-"), text)

    async def routed(self, *, but: str) -> tuple[IPv4Network, ...]:
        """Every IPv4 network to which this machine has a route, those over one device left out. Raises CaptureError."""
        said = await self.run(("ip", "-4", "-json", "route", "show", "table", "all"))
        routes = json.loads(said or "[]")
        named = (route["dst"] for route in routes if route.get("dev") != but and route.get("dst") != "default")
        return tuple(IPv4Network(each, strict=False) for each in named)


def look(names: Names, namespace: str, outer: str) -> Found:
    """What there is of one workload now."""
    has_namespace = is_namespace(namespace)
    return Found(
        has_bridge=has_link(names.bridge),
        has_file=path_of(namespace).exists(),
        has_namespace=has_namespace,
        has_outer=has_link(outer),
        has_inner=has_namespace and in_namespace(path_of(namespace), lambda: has_link(INNER)),
    )


async def until_usable(namespace: str, address: str) -> None:
    """Until a socket in that namespace may have this IPv6 address: once the kernel has noticed that the link is up."""

    def take() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))

    with suppress(TimeoutError):
        async with asyncio.timeout(USABLE_WITHIN):
            while True:
                with suppress(OSError):
                    in_namespace(path_of(namespace), take)
                    return
                await asyncio.sleep(0.005)


def is_namespace(name: str) -> bool:
    """Whether the file of that name is a network namespace, and not what was left of one."""
    try:
        return path_of(name).stat().st_dev == _OWN.stat().st_dev
    except OSError:
        return False


def has_link(name: str) -> bool:
    """Whether this thread's namespace has an interface of that name."""
    try:
        return bool(socket.if_nametoindex(name))
    except OSError:
        return False


def links_like(prefix: str) -> tuple[str, ...]:
    """The interfaces whose names begin so."""
    return tuple(sorted(name for _, name in socket.if_nameindex() if name.startswith(prefix)))


def namespaces_like(prefix: str) -> tuple[str, ...]:
    """The names of network namespaces, of what was left of them too, that begin so."""
    try:
        return tuple(sorted(each.name for each in NAMESPACES.iterdir() if each.name.startswith(prefix)))
    except OSError:
        return ()


def forwards() -> bool:
    """Whether this machine passes on what is not for itself."""
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    except OSError:
        return False


def has_ipv6() -> bool:
    """Whether this machine's kernel has IPv6 and it is not switched off."""
    try:
        return Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False
