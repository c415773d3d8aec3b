"""Two small HTTP servers: metrics of all proxies and applications of this machine on one page, and readiness.

Loopback unless the operator says otherwise. Readiness answers 200 or 503 and nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from masche.agent import admin, door
from masche.agent.seats import PortBook
from masche.agent.server import Seated
from masche.agent.sight import Proxy
from masche.link.probe import Connect
from masche.telemetry.prometheus import CONTENT_TYPE, join

METRICS_PORT = 15020
READINESS_PORT = 15021

MAX_APPLICATION_BYTES = 4 * 1024 * 1024
WITHIN = 2.0
"""Seconds that one page of an application may take."""

Answer = tuple[int, str, str]
"""Status, content type, body."""

_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_TEXT = "text/plain; charset=utf-8"


class Metrics:
    """Serves what is known of this machine's seats."""

    def __init__(
        self,
        *,
        address: str,
        ports: PortBook,
        proxies: Callable[[], Iterable[Proxy]],
        seated: Callable[[], Iterable[Seated]],
    ) -> None:
        self._address = address
        self._proxies = proxies
        self._seated = seated
        self.metrics_port = ports.take("agent#metrics", address=address, preferred=METRICS_PORT)
        self.readiness_port = ports.take("agent#readiness", address=address, preferred=READINESS_PORT)
        ports.save()

    def __repr__(self) -> str:
        return f"<Metrics {self._address}:{self.metrics_port}, readiness {self.readiness_port}>"

    async def run(self) -> None:
        """Serve until cancelled."""
        metrics = await self._listen(self.metrics_port, self._metrics)
        readiness = await self._listen(self.readiness_port, self._ready)
        async with metrics, readiness:
            await asyncio.gather(metrics.serve_forever(), readiness.serve_forever())

    async def _listen(self, port: int, page: Callable[[str], Awaitable[Answer]]) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _serve(reader, writer, page)

        return await asyncio.start_server(serve, self._address, port, reuse_port=True)

    async def _metrics(self, path: str) -> Answer:
        if path not in {"/metrics", "/stats/prometheus"}:
            return 404, _TEXT, "metrics are at /metrics\n"
        found = await asyncio.gather(*map(_page, self._proxies()), *map(_application_page, self._seated()))
        return 200, CONTENT_TYPE, join(page for pages in found for page in pages)

    async def _ready(self, _: str) -> Answer:
        """Ready when there is a seat, and every one has a certificate that holds and an Envoy that serves, if any."""
        proxies, seated = list(self._proxies()), list(self._seated())
        lives = await asyncio.gather(*(admin.is_ready(one.place.admin) for one in proxies))
        waiting = {str(one.workload or one.proxy) for one, lives in zip(proxies, lives, strict=True) if not lives}
        waiting |= {str(one.name) for one in seated if not one.identity.is_valid}
        if seated and not waiting:
            return 200, _TEXT, "ready\n"
        return 503, _TEXT, f"waiting for {', '.join(sorted(waiting)) or 'a workload'}\n"


async def _page(proxy: Proxy) -> Sequence[str]:
    """What an Envoy says: of the one workload that it serves, or of several, which it names itself."""
    workload = proxy.workload
    labels = {"namespace": workload.namespace, "workload": workload.name} if workload else {"proxy": proxy.proxy}
    try:
        answer = await admin.ask(proxy.place.admin, "/stats/prometheus?usedonly")
    except admin.AdminError:
        return ()  # it is being started again; the other pages are still worth having
    return (labelled(answer.body.decode(errors="replace"), labels),)


async def _application_page(seated: Seated) -> Sequence[str]:
    """The page of an application that declared one."""
    if not seated.claim.metrics_port:
        return ()
    labels = {"namespace": seated.name.namespace, "workload": seated.name.name}
    return (labelled(await _application(seated.claim.metrics_port, door.into(seated.seat.namespace_path)), labels),)


async def _application(port: int, connect: Connect) -> str:
    """What the application says of itself at ``/metrics``; nothing when it does not."""
    writer = None
    try:
        async with asyncio.timeout(WITHIN):
            reader, writer = await connect("127.0.0.1", port)
            writer.write(f"GET /metrics HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
            raw = bytearray()
            while len(raw) <= MAX_APPLICATION_BYTES and (part := await reader.read(1 << 16)):
                raw += part
    except (OSError, TimeoutError):
        return ""
    finally:
        if writer:
            writer.close()
    head, _, body = bytes(raw).partition(b"\r\n\r\n")
    is_page = head.split(b" ", 2)[1:2] == [b"200"] and len(raw) <= MAX_APPLICATION_BYTES
    return body.decode(errors="replace") if is_page else ""


def labelled(page: str, labels: dict[str, str]) -> str:
    """The page with these labels put first in every sample, so that several pages can stand on one."""
    extra = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return "\n".join(_labelled(line, extra) for line in page.replace("\r", "").split("\n"))


def _labelled(line: str, extra: str) -> str:
    if not line or line.startswith("#"):
        return line
    at = min((found for found in (line.find("{"), line.find(" ")) if found >= 0), default=-1)
    if at < 0:
        return line
    if line[at] == " ":
        return f"{line[:at]}{{{extra}}}{line[at:]}"
    comma = "" if line[at + 1 : at + 2] == "}" else ","
    return f"{line[: at + 1]}{extra}{comma}{line[at + 1 :]}"


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, page: Callable[[str], Awaitable[Answer]]
) -> None:
    try:
        async with asyncio.timeout(10.0):
            method, target = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split(" ", 2)[:2]
            path = target.partition("?")[0]
            status, kind, body = await page(path) if method == "GET" else (405, _TEXT, "only GET\n")
            content = body.encode()
            writer.write(
                f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\n"
                f"content-length: {len(content)}\r\nconnection: close\r\n\r\n".encode()
            )
            writer.write(content)
            await writer.drain()
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # a client that speaks no HTTP, is too slow or went away gets nothing
    finally:
        writer.close()
