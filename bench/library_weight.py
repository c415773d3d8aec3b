"""What the library adds to a process that has its HTTP client and a TLS context: import time, and memory after calling
100 services, each with an identity of its own, by a real control plane. The bare client calls the same 100 addresses
with one context that was set up by hand, so that connections, which are the client's, count on both sides; beside it
stands the bare client that called one. asyncio gives each TLS connection of a bare aiohttp 256 kB to read into, for all
of which the library has one small buffer: what it adds is judged beside a bare client with small buffers, too.

    python bench/library_weight.py [--services 100] [--rounds 3]
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rig.library import CARRIED_OUT
from rig.mesh import NAMESPACE, MascheMesh
from rig.record import Record
from rig.weighed_servers import Servers

PROGRAM = Path(__file__).parent / "rig" / "library_weighed.py"
CLIENTS = ("aiohttp", "requests", "httpx")
BUDGET_MB, BUDGET_MS = 25.0, 250.0

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: {port}, appProtocol: http}}]
---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  address: 127.0.0.1
  serviceAccount: {name}
  ports: [{{port: {port}, meshPort: {port}}}]
"""

IMPORT = """
import sys, time
import {client}, ssl, asyncio
wall, cpu = time.perf_counter(), time.process_time()
import masche.library.{client}
print((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000)
"""


def import_ms(client: str) -> tuple[float, float]:
    """Wall and processor time of the import alone, in a fresh process."""
    words = [sys.executable, "-c", IMPORT.format(client=client)]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return float(found[0]), float(found[1])


def weigh(told: dict[str, Any], environment: dict[str, str]) -> float:
    """Megabytes of a process that called all it was told to."""
    found = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=json.dumps(told) + "\n",
        env={**environment, "PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)["pss_kb"] / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    record = Record("library-weight", "What the library adds to a process", measures=CARRIED_OUT)
    mesh, rows = MascheMesh("library-weight"), list[list[str]]()
    names = [f"s{number}" for number in range(given.services)]
    try:
        mesh.stage.start_control_plane()
        with Servers(mesh.stage.folder, NAMESPACE, names) as servers:
            mesh.apply(
                "---\n".join(
                    SERVICE.format(name=name, namespace=NAMESPACE, port=port) for name, port in servers.ports.items()
                )
            )
            plain = {
                **servers.files("plain"),
                "plain": [f"https://127.0.0.1:{port}/" for port in servers.ports.values()],
            }
            environment = {
                **mesh.stage.environment(),
                "MASCHE_SERVICE_ACCOUNT": "caller",
                "MASCHE_NAMESPACE": NAMESPACE,
            }
            told = Told(plain, [f"{name}.{NAMESPACE}" for name in names], environment)
            rows += [weighed(record, client, given.rounds, told) for client in CLIENTS]
    finally:
        mesh.close()
    columns = ["client", "bare, one address", "bare", "bare, small buffers", "with the library", "added"]
    columns += ["added to small buffers", "import ms", "of which processor ms"]
    record.table(f"PSS in MB after calling {given.services} services; import after the client's own", columns, rows)
    record.write()


@dataclass(frozen=True)
class Told:
    """What programs are told: their files and addresses, the names to call, and the way to the control plane."""

    plain: dict[str, Any]
    names: list[str]
    environment: dict[str, str]

    def weigh(self, client: str, *, services: int = 0, addresses: int = 0, is_lean: bool = False) -> float:
        asked = {"client": client, "names": self.names[:services], "plain": self.plain["plain"][:addresses]}
        asked["is_lean"] = is_lean
        return weigh({**self.plain, **asked}, self.environment)


def weighed(record: Record, client: str, rounds: int, told: Told) -> list[str]:
    one: list[float] = []
    bare: list[float] = []
    lean: list[float] = []
    full: list[float] = []
    imports: list[tuple[float, float]] = []
    for _ in range(rounds):
        one.append(told.weigh(client, addresses=1))
        bare.append(told.weigh(client, addresses=len(told.names)))
        lean.append(told.weigh(client, addresses=len(told.names), is_lean=True))
        full.append(told.weigh(client, services=len(told.names)))
        imports += [import_ms(client) for _ in range(3)]
    added = median(more - less for more, less in zip(full, bare, strict=True))
    added_to_lean = median(more - less for more, less in zip(full, lean, strict=True))
    # What else the machine does makes an import longer, never shorter: the quickest is its own.
    wall, cpu = min(each[0] for each in imports), min(each[1] for each in imports)
    record.figure(f"{client}_added", round(added, 1), unit="MB", target=f"<= {BUDGET_MB:g}", is_met=added <= BUDGET_MB)
    to_lean_met = added_to_lean <= BUDGET_MB
    record.figure(
        f"{client}_added_to_lean", round(added_to_lean, 1), unit="MB", target=f"<= {BUDGET_MB:g}", is_met=to_lean_met
    )
    record.figure(f"{client}_import", round(wall), unit="ms", target=f"<= {BUDGET_MS:g}", is_met=wall <= BUDGET_MS)
    record.raw[client] = {
        "one_mb": one,
        "bare_mb": bare,
        "lean_mb": lean,
        "library_mb": full,
        "import_wall_cpu_ms": imports,
    }
    figures = (median(one), median(bare), median(lean), median(full), added, added_to_lean)
    return [client, *(f"{each:.1f}" for each in figures), f"{wall:.0f}", f"{cpu:.0f}"]


if __name__ == "__main__":
    main()
