"""Calls between two workloads of one machine: what they cost our Envoy, and a pair of Envoys configured by hand.

Both call the same kind of application in the same way: ``wrk`` on connections that stay open, HTTP/1.1. Ours holds what
the compiler makes for the node placement, in real network namespaces, with policies, statistics and logs as always.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import bare_envoys
from rig.machine import ROOT
from rig.ports import free_port

sys.path[:0] = [str(ROOT / "tests" / "compiler" / "envoy"), str(ROOT / "tests")]
from node_rig import ROOT as AUTHORITY  # noqa: E402 - found by the line above
from node_rig import Node, node, port, virtual  # noqa: E402 - found by the line above
from views import identity  # noqa: E402 - found by the line above

PAIR, LOCAL, TLS = "pair of bare Envoys", "sameMachine: local", "sameMachine: tls"

_ORDERS = port("orders")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Way:
    """One way to the application: which processes carry the calls, and where they are sent from."""

    name: str
    processes: Sequence[int]
    url: str
    namespace_path: str = ""


class Calls:
    """Everything that is measured, running."""

    def __init__(self, pair: Way, ours: Node, process: int) -> None:
        self._pair, self._node = pair, ours
        self._url = f"http://{virtual(_ORDERS)[0]}/"
        self._process = process

    def round(self, connections: int, seconds: int) -> Mapping[str, float]:
        """Microseconds of processor time per call, by way: one after the other."""
        return {name: self._cost(self._way(name), connections, seconds) for name in (PAIR, LOCAL, TLS)}

    def _way(self, name: str) -> Way:
        if name == PAIR:
            return self._pair
        self._node.is_local = name == LOCAL
        self._node.put()
        return Way(name, (self._process,), self._url, self._node.members["web"].place.namespace_path)

    @staticmethod
    def _cost(way: Way, connections: int, seconds: int) -> float:
        _called(way, connections, 1)
        before = sum(map(_processor_seconds, way.processes))
        calls = _called(way, connections, seconds)
        return (sum(map(_processor_seconds, way.processes)) - before) / calls * 1e6


@contextmanager
def running() -> Iterator[Calls]:
    """Applications, a pair and a node, until the block ends. Raises SystemExit: there is no ``wrk``, or no root."""
    if not shutil.which("wrk") or os.geteuid():
        raise SystemExit("this needs wrk, and root for network namespaces")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(node())
        for name in ("web", "orders"):
            ours.add(name)
        application = free_port()
        inside = ours.members["orders"].place.namespace_path
        stack.enter_context(bare_envoys.running(folder, bare_envoys.application(application), inside))
        ours.serve("orders", _ORDERS, application)
        ours.put()
        yield Calls(_pair(stack, folder), ours, ours.envoy.process.pid)


def _pair(stack: ExitStack, folder: Path) -> Way:
    application, entrance, between = free_port(), free_port(), free_port()
    root = AUTHORITY.pem
    callee = bare_envoys.callee(between, application, AUTHORITY.issue(identity("orders")), root)
    caller = bare_envoys.caller(entrance, between, AUTHORITY.issue(identity("web")), root)
    stack.enter_context(bare_envoys.running(folder, bare_envoys.application(application)))
    processes = [stack.enter_context(bare_envoys.running(folder, each)) for each in (callee, caller)]
    return Way(PAIR, processes, f"http://127.0.0.1:{entrance}/")


def _called(way: Way, connections: int, seconds: int) -> int:
    """Call as fast as is answered; return how often. Raises SystemExit: some calls failed."""
    command = ["nsenter", f"--net={way.namespace_path}"] if way.namespace_path else []
    command += ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", way.url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{way.name}: {said}")
    found = re.search(r"(\d+) requests in", said)
    return int(found.group(1)) if found else 0


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
