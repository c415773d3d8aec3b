"""Tells the control plane at once whom an Envoy of this machine cuts off or lets back in.

Envoy writes a line for each into a file of its seat, which is read as it grows. What it says of the application that it
stands before is for whoever asks that. Invariant: what is said is bounded, and nothing depends on it: the next Report
names every endpoint that is cut off, whatever was missed here.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from masche.agent.meter import way_to
from masche.agent.sight import Proxy
from masche.link.messages import Verdict

INTERVAL = 0.05
"""Seconds between looks at the files; with Envoy's own delay a verdict is under way after 100 ms."""

MOST_PER_SECOND = 100
"""More are left to the Report: so many at once are not about an instance."""

LIMIT_BYTES = 256 * 1024
"""A file that is longer is begun anew, once it is read."""

MAX_READ_BYTES = 64 * 1024

_CAUSES = {
    "CONSECUTIVE_5XX": "consecutive server errors",
    "CONSECUTIVE_GATEWAY_FAILURE": "consecutive gateway failures",
    "CONSECUTIVE_LOCAL_ORIGIN_FAILURE": "consecutive failures to reach it",
    "SUCCESS_RATE": "fewer successes than the others",
    "SUCCESS_RATE_LOCAL_ORIGIN": "reached less often than the others",
    "FAILURE_PERCENTAGE": "too many failures",
    "FAILURE_PERCENTAGE_LOCAL_ORIGIN": "too many failures to reach it",
    "DEGRADED": "it says that it is degraded",
}


class Line(msgspec.Struct):
    """One line: ``enforced`` says of an ejection whether it is more than a thought."""

    type: str = ""
    cluster_name: str = ""
    upstream_url: str = ""
    action: str = ""
    enforced: bool = False


_LINES = msgspec.json.Decoder(Line)


def read(line: bytes) -> Line | None:
    """Read one line; None for what is none of Envoy's."""
    try:
        return _LINES.decode(line)
    except msgspec.DecodeError:
        return None


def verdict(line: Line, proxy: str) -> Verdict | None:
    """Return the verdict on an endpoint of the mesh, if it is one."""
    way = way_to(line.cluster_name, line.upstream_url)
    is_ejected = line.action == "EJECT"
    if way is None or (is_ejected and not line.enforced) or line.action not in {"EJECT", "UNEJECT"}:
        return None
    service, endpoint, via = way
    cause = _CAUSES.get(line.type, line.type.lower().replace("_", " ")) if is_ejected else "its time is served"
    return Verdict(proxy=proxy, service=service, endpoint=endpoint, via=via, is_ejected=is_ejected, cause=cause)


def application(line: Line) -> str:
    """Return the cluster of an application that failed several calls in a row, or "".

    It is never cut off: its Envoy only thinks that it should be.
    """
    return line.cluster_name if line.action == "EJECT" and line.cluster_name.startswith("inbound/") else ""


@dataclass(slots=True)
class Tail:
    """The end of one file: what stands in it already when we come is old news."""

    path: Path
    _at: int = field(default=-1, init=False)
    _rest: bytes = field(default=b"", init=False)

    def lines(self) -> tuple[bytes, ...]:
        """The whole lines that were added since."""
        try:
            size = self.path.stat().st_size
            if self._at < 0 or size < self._at:
                self._at, self._rest = size if self._at < 0 else 0, b""
            if size == self._at:
                return ()
            *lines, self._rest = (self._rest + self._read()).split(b"\n")
            if self._at >= LIMIT_BYTES and not self._rest:
                os.truncate(self.path, 0)
        except OSError:  # it is not there before Envoy is, which also begins with an empty one
            self._at = max(self._at, 0)
            return ()
        return tuple(lines)

    def _read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read(MAX_READ_BYTES)
        self._at += len(data)
        return data


class Verdicts:
    """Watches the files of all seats. ``tell`` sends one verdict, ``suspect`` takes a proxy and the cluster of an
    application that fails its calls.
    """

    def __init__(
        self,
        *,
        proxies: Callable[[], Iterable[Proxy]],
        tell: Callable[[Verdict], None],
        suspect: Callable[[str, str], None],
    ) -> None:
        self._proxies = proxies
        self._tell = tell
        self._suspect = suspect
        self._tails: dict[str, Tail] = {}

    def __repr__(self) -> str:
        return f"<Verdicts of {len(self._tails)} proxies>"

    async def run(self) -> None:
        """Watch for ever."""
        looks_per_second = round(1 / INTERVAL)
        while True:
            left = MOST_PER_SECOND
            for _ in range(looks_per_second):
                await asyncio.sleep(INTERVAL)
                for each in self._news():
                    left -= 1
                    if left >= 0:
                        self._tell(each)

    def _news(self) -> Iterator[Verdict]:
        proxies = list(self._proxies())
        self._tails = {one.proxy: self._tails.get(one.proxy) or Tail(one.place.outliers) for one in proxies}
        for proxy, tail in self._tails.items():
            lines = [found for line in tail.lines() if (found := read(line))]
            yield from (found for line in lines if (found := verdict(line, proxy)))
            for cluster in {found for line in lines if (found := application(line))}:
                self._suspect(proxy, cluster)
