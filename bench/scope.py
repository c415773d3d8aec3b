"""What a sidecar costs in a mesh of 10 and of 1000 services, 10 instances each, and how long a first call waits.

A real mesh of processes. Three sidecars are compared that have called nothing yet: in a small mesh, in a large one of
which they are given everything, and in a large one on demand, as it is by default. Then services that were never called
are called through the explicit proxy, over mutual TLS, by a bare client that keeps its connection.

    python bench/scope.py [--services 1000] [--first-calls 50] [--rounds 3]
"""

import argparse
import socket
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rig.mesh import NAMESPACE, MascheMesh
from rig.ports import free_port
from rig.record import Record, percentile
from rig.waiting import until

from masche.agent.folders import Folders
from masche.agent.local import SeatStatus
from masche.agent.stopping import ask_status
from masche.control.compilation import Compilation
from masche.model.mesh import Mesh
from masche.model.ports import Change, Entry
from masche.model.refs import Name
from masche.model.resources.mesh_config import ON_DEMAND_ABOVE
from masche.model.vantage import Dialect, Placement, Seat, Vantage
from masche.model.yaml import load
from masche.registry.merge import merge

SMALL, EVERYTHING = 10, 100_000
GROWTH, FIRST_CALL_MS = 10.0, 10.0
TARGET = "target"
STEADY_MB, STEADY_FOR = 0.2, 2.0
PAUSE = 0.1
"""Seconds between first calls, so that none is measured with what the one before it left to be acknowledged."""

APPLICATION = """
import asyncio, os

async def answer(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", int(os.environ["PORT"])) as server:
        await server.serve_forever()

asyncio.run(main())
"""


# -- the mesh ---------------------------------------------------------------------------------------------------------


def resources(services: int, callable_: int, above: int | None) -> str:
    """So many Services with ten instances, of which some lead to a server that is there."""
    spec = "mtls: PERMISSIVE" + (f", onDemandAbove: {above}" if above is not None else "")
    config = f"---\napiVersion: masche.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    live = "".join(_service(f"live-{number}", f"selector: {{app: {TARGET}}}, ") for number in range(callable_))
    return config + live + "".join(_with_instances(number) for number in range(services - callable_))


def _service(name: str, selector: str = "") -> str:
    ports = "ports: [{name: http, port: 80, targetPort: http}]"
    metadata = f"{{name: {name}, namespace: {NAMESPACE}}}"
    return f"---\napiVersion: v1\nkind: Service\nmetadata: {metadata}\nspec: {{{selector}{ports}}}\n"


def _with_instances(number: int) -> str:
    name = f"service-{number}"
    where = ", ".join(f"{{addresses: [10.{number // 250}.{number % 250}.{each}]}}" for each in range(1, 11))
    labels = f"{{kubernetes.io/service-name: {name}}}"
    return (
        f"{_service(name)}---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {labels}}}\n"
        f"addressType: IPv4\nendpoints: [{where}]\nports: [{{name: http, port: 8080}}]\n"
    )


@contextmanager
def a_mesh(services: int, first_calls: int, above: int | None) -> Generator[MascheMesh]:
    """A mesh with one server and one caller that has called nobody."""
    mesh = MascheMesh()
    try:
        mesh.stage.start_control_plane()
        words = ["run", "--service", TARGET, "--namespace", NAMESPACE, "--port", f"http:{free_port()}"]
        mesh.stage.start(TARGET, [*words, "--", sys.executable, "-c", APPLICATION])
        mesh.until_ready(TARGET, 1)
        mesh.apply(resources(services, min(first_calls, services // 2), above))
        mesh.run("caller", "caller")
        until((mesh.stage.folder / "caller.json").exists, "the caller did not start")
        yield mesh
    finally:
        mesh.close()


def seat(mesh: MascheMesh) -> SeatStatus:
    """The caller's."""
    found = ask_status(Folders(mesh.stage.folder))
    assert found, "the agent runs"
    return next(each for each in found.seats if "/caller" in each.workload)


# -- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Of one process, in MB. ``own`` is what it alone has; ``pss`` has its share of what it shares as well."""

    pss: float
    own: float


def memory(pid: int) -> Memory:
    fields: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) / 1024
    return Memory(pss=fields["Pss"], own=fields["Anonymous"])


def settled(pid: int) -> Memory:
    """What it needs once it does not change any more."""
    seen = [memory(pid)]

    def is_steady() -> bool:
        time.sleep(STEADY_FOR)
        seen.append(memory(pid))
        return abs(seen[-1].own - seen[-2].own) < STEADY_MB

    until(is_steady, "the memory does not settle")
    return seen[-1]


def calls(port: int, host: str, count: int) -> list[float]:
    """Milliseconds of calls in a row on one connection."""
    found: list[float] = []
    request = f"GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(request)
            answer = connection.recv(65_536)
            found.append(1000 * (time.perf_counter() - began))
            if b" 200 " not in answer:
                raise SystemExit(f"{host} answered {answer[:200]!r}")
    return found


@dataclass
class Seen:
    """One kind of mesh, round by round."""

    memories: list[Memory] = field(default_factory=list[Memory])
    after: list[Memory] = field(default_factory=list[Memory])
    first: list[float] = field(default_factory=list[float])
    later: list[float] = field(default_factory=list[float])


def look(seen: Seen, services: int, first_calls: int, above: int | None, *, is_called: bool = False) -> None:
    with a_mesh(services, first_calls, above) as mesh:
        caller = seat(mesh)
        seen.memories.append(settled(caller.envoy_pid))
        if is_called:
            for number in range(first_calls):
                time.sleep(PAUSE)
                first, *rest = calls(caller.ports["proxy"], f"live-{number}.{NAMESPACE}", 3)
                seen.first.append(first)
                seen.later += rest
            seen.after.append(settled(caller.envoy_pid))


def compiling(services: int, above: int, proxies: int) -> float:
    """Milliseconds that the control plane needs for each further proxy of one kind, nothing but that measured."""
    loaded = load(resources(services, 0, above), file="bench.yaml", namespace=NAMESPACE)
    entries = tuple(Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in loaded.resources)
    compilation = Compilation()
    compilation.settle(merge(Mesh(), Change(revision=1, entries=entries)), endpoints_alone=False)
    vantage = Vantage(
        placement=Placement.SIDECAR, dialect=Dialect.ENVOY, namespace=NAMESPACE, service_account="caller", zone=""
    )
    places = [
        ((vantage, Seat(workload=Name(NAMESPACE, f"caller-{number}"), bind="127.0.0.1", proxy_port=15001)),)
        for number in range(proxies + 1)
    ]
    compilation.wanted(places[0])
    began = time.perf_counter()
    for place in places[1:]:
        compilation.wanted(place)
    return 1000 * (time.perf_counter() - began) / proxies


# -- what is said -----------------------------------------------------------------------------------------------------


def main(services: int, first_calls: int, rounds: int) -> None:
    record = Record(
        "scope",
        "Scope on demand: what a sidecar costs in a large mesh, and how long a first call waits",
        ("src/masche/compiler/demand.py", "src/masche/compiler/envoy", "src/masche/xds", "bench/scope.py"),
    )
    kinds = {"small": (SMALL, EVERYTHING), "everything": (services, EVERYTHING), "on demand": (services, None)}
    found = {kind: Seen() for kind in kinds}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for kind, (size, above) in kinds.items():
            look(found[kind], size, first_calls, above, is_called=kind == "on demand")
    report(record, found, services, first_calls)
    costs = {kind: compiling(size, EVERYTHING if above is None else above, 50) for kind, (size, above) in kinds.items()}
    costs["on demand"] = compiling(services, ON_DEMAND_ABOVE, 50)
    rows = [[kind, f"{cost:.2f}"] for kind, cost in costs.items()]
    record.table(
        "Control plane: CPU per further proxy at a change, its encoded parts being made", ["scope", "ms"], rows
    )
    record.raw = {kind: asdict(seen) for kind, seen in found.items()} | {"compiling": costs}
    record.write()


def report(record: Record, found: dict[str, Seen], services: int, first_calls: int) -> None:
    """Put the figures into the record."""
    small, large = found["small"], found["on demand"]

    def row(name: str, some: list[Memory]) -> list[str]:
        pss, own = (median(getattr(each, part) for each in some) for part in ("pss", "own"))
        ratios = [100 * (each.own / base.own - 1) for each, base in zip(some, small.memories, strict=True)]
        spread = f"{min(ratios):+.1f} .. {max(ratios):+.1f}"
        return [name, f"{pss:.1f}", f"{own:.1f}", f"{median(ratios):+.1f} %", spread]

    rows = [
        row(f"{SMALL} services", small.memories),
        row(f"{services} services, everything", found["everything"].memories),
        row(f"{services} services, on demand", large.memories),
        row(f"the same after {first_calls} were called", large.after),
    ]
    record.table("Memory of one sidecar's Envoy, MB, medians", ["mesh", "PSS", "own", "growth of own", "spread"], rows)
    first, later = sorted(large.first), sorted(large.later)
    shares = (0.5, 0.99)
    table = [
        [name, *(f"{percentile(some, share):.2f}" for share in shares), f"{some[-1]:.2f}"]
        for name, some in (("first", first), ("second and third", later))
    ]
    record.table(f"Calls of {len(first)} services never called before, ms", ["call", "p50", "p99", "most"], table)
    growth = median(100 * (one.own / base.own - 1) for one, base in zip(large.memories, small.memories, strict=True))
    usual, worst = percentile(first, 0.5), percentile(first, 0.99)
    record.figure("growth", round(growth, 1), unit="%", target="<= 10 %", is_met=growth <= GROWTH)
    record.figure("first_call_p50", round(usual, 2), unit="ms", target="<= 10 ms", is_met=usual <= FIRST_CALL_MS)
    record.figure("first_call_p99", round(worst, 2), unit="ms")
    record.note(
        "Growth is of what a process has alone: PSS also counts its part of what Envoys share (the binary), which is "
        "less the more of them run, whosever they are. A first call is one HTTP request through the explicit proxy of "
        "the sidecar, with the cluster, its endpoints, TCP and mutual TLS on its way. Other instances are addresses "
        "where nobody is."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--first-calls", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main(given.services, given.first_calls, given.rounds)
