"""The library against the same client without it: what a call costs that is discovered, balanced, judged and counted.

Each client calls one server (compiled, 1 KB answers, mutual TLS, keep-alive) in turns: plainly, with a TLS context set
up by hand and a fixed address, and by its name through the library with a real control plane. The ratio is taken in
each round, and the median of the rounds is the figure. Beside it, a pair of sidecars with the same client, and grpcio
with its own xDS client, which calls the server's sidecar and carries out much less of the same policies.

    python bench/library.py [--rounds 7] [--only aiohttp]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rig.grpc_peer import bootstrapped
from rig.library import CARRIED_OUT
from rig.load import Backend, Backends, Behaviour
from rig.mesh import NAMESPACE, MascheMesh
from rig.ports import free_port
from rig.record import Record, percentile

from masche.identity import keys
from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId

PROGRAM = Path(__file__).parent / "rig" / "library_client.py"
TRUST_DOMAIN = "mesh.local"
SIZE = 1024
RATE = 1000.0
CLIENTS = {"aiohttp": 16, "httpx2": 16, "httpx": 16, "requests": 1}
"""Calls at a time. Threads take turns in one process, so more than one would measure their turns."""

TARGETS = {"aiohttp": 0.85, "httpx2": 0.95, "requests": 0.95}
P99_TARGET = 1.10

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: target, namespace: {namespace}}}
spec:
  selector: {{app: target}}
  ports: [{{port: 80, targetPort: {port}, appProtocol: http}}]
---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: target-1, namespace: {namespace}, labels: {{app: target}}}}
spec:
  address: 127.0.0.1
  serviceAccount: target
  ports: [{{port: {port}, meshPort: {port}}}]
"""


class Scene:
    """A control plane, and a server with a certificate of its authority that no sidecar stands before."""

    def __init__(self) -> None:
        self.mesh = MascheMesh("library")
        self.folder = self.mesh.stage.folder
        self.mesh.stage.start_control_plane()
        self.port = free_port()
        files = self.certificate("target")
        server = Backend(port=self.port, start=Behaviour(latency=0), size_bytes=SIZE, tls=files)
        behind = Backend(port=free_port(), start=Behaviour(latency=0), size_bytes=SIZE)
        self.backends = Backends({"target": server, "behind": behind})
        self.mesh.apply(SERVICE.format(namespace=NAMESPACE, port=self.port))
        self.behind = behind.port
        self.has_sidecar = False

    def certificate(self, account: str) -> tuple[str, str, str]:
        """PEM files for a workload: certificate, key and roots."""
        authority = Authority.open(self.folder / "authority", TRUST_DOMAIN, now=time.time(), audit=lambda _: None)
        key = keys.generate()
        name = SpiffeId.parse(f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{account}")
        issued = authority.sign(keys.signing_request(key), name, now=time.time())
        parts = {
            "crt": issued.chain.encode(),
            "key": keys.private_pem(key).reveal(),
            "ca": authority.bundle.pem.encode(),
        }
        for suffix, content in parts.items():
            path = self.folder / f"{account}.{suffix}"
            path.touch(mode=0o600)
            path.write_bytes(content)
        return tuple(str(self.folder / f"{account}.{suffix}") for suffix in parts)  # type: ignore[return-value] # three

    def told(self) -> Mapping[str, Any]:
        certificate, key, roots = self.certificate("plain")
        return {
            "certificate": certificate,
            "key": key,
            "roots": roots,
            "plain": f"https://127.0.0.1:{self.port}/",
            "mesh": f"http://target.{NAMESPACE}/",
        }

    def measure(self, told: Mapping[str, Any], more: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        own = {"MASCHE_SERVICE_ACCOUNT": "caller", "MASCHE_NAMESPACE": NAMESPACE}
        environment = {**self.mesh.stage.environment(), **(more or own), "PYTHONPATH": ":".join(sys.path)}
        found = subprocess.run(
            [sys.executable, str(PROGRAM)],
            input=json.dumps(told) + "\n",
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(found.stdout)["rounds"]

    def sidecar_of_the_server(self) -> None:
        """Put one beside another such server, as the service ``behind``."""
        if not self.has_sidecar:
            self.mesh.run("behind-1", "behind", port=self.behind)
            self.mesh.until_ready("behind", 1)
            self.has_sidecar = True

    def sidecars(self) -> str:
        """Put one beside a caller, too; return where the caller calls."""
        self.sidecar_of_the_server()
        return self.mesh.caller("beside", "behind")

    def grpcio(self, shape: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Measure grpcio's own xDS client, which has a bootstrap of ours and no code."""
        self.sidecar_of_the_server()
        told = {**shape, "client": "grpcio", "width": 16, "rate": RATE, "target": f"xds:///behind.{NAMESPACE}:80"}
        return self.measure(told, bootstrapped(self.mesh, "grpcio"))

    def close(self) -> None:
        self.backends.close()
        self.mesh.close()


def ratio(rounds: list[dict[str, Any]], figure: str) -> tuple[float, float, float]:
    """The median of the rounds' ratios, library to plain, and their range."""
    found = sorted(each["library"][figure] / each["plain"][figure] for each in rounds)
    return median(found), found[0], found[-1]


def p99_ratio(rounds: list[dict[str, Any]]) -> tuple[float, float, float]:
    found = [
        {way: {"p99": percentile(sorted(made["latencies"]), 0.99)} for way, made in each.items()} for each in rounds
    ]
    return ratio(found, "p99")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way in each round")
    parser.add_argument("--only", default="", help="names of clients, by comma; so are sidecar and grpcio")
    given = parser.parse_args()
    wanted = {name for name in given.only.split(",") if name} or {*CLIENTS, "sidecar", "grpcio"}
    record = Record("library", "The library against the same client without it", measures=CARRIED_OUT)
    scene, rows = Scene(), list[list[str]]()
    try:
        shape = {"rounds": given.rounds, "seconds": given.seconds}
        for client, width in CLIENTS.items():
            if client in wanted:
                print(client, flush=True)
                rate = RATE if client == "aiohttp" else 0
                rounds = scene.measure({**scene.told(), **shape, "client": client, "width": width, "rate": rate})
                rows += compared(record, client, rounds)
        if "sidecar" in wanted:
            print("sidecar pair", flush=True)
            told = {**shape, "client": "sidecar", "width": 16, "rate": RATE, "sidecar": scene.sidecars()}
            rounds = scene.measure(told)
            rows.append(line("aiohttp", "pair of sidecars", [each["sidecar"] for each in rounds]))
        if "grpcio" in wanted:
            print("grpcio", flush=True)
            rounds = scene.grpcio(shape)
            rows.append(
                line("grpcio", "own xDS client, to a sidecar; empty answers", [each["grpcio"] for each in rounds])
            )
    finally:
        scene.close()
    columns = ["client", "way", "calls/s", "CPU us per call in the client", f"p99 ms at {RATE:.0f} calls/s"]
    record.table("One client, 1 KB answers over mutual TLS (medians of the rounds)", columns, rows)
    record.write()


def compared(record: Record, client: str, rounds: list[dict[str, Any]]) -> list[list[str]]:
    middle, least, most = ratio(rounds, "rps")
    target = TARGETS.get(client)
    record.figure(
        f"{client}_throughput",
        round(middle, 3),
        unit="x",
        target=f">= {target}" if target else "",
        is_met=middle >= target if target else None,
    )
    record.note(f"{client}: throughput {middle:.3f}x of plain (rounds {least:.3f} to {most:.3f})")
    if "latencies" in rounds[0]["plain"]:
        middle, least, most = p99_ratio(rounds)
        record.figure(
            f"{client}_p99", round(middle, 3), unit="x", target=f"<= {P99_TARGET}", is_met=middle <= P99_TARGET
        )
        record.note(f"{client}: p99 at {RATE:.0f} calls/s {middle:.3f}x of plain (rounds {least:.3f} to {most:.3f})")
    record.raw[client] = [
        {way: {key: value for key, value in made.items() if key != "latencies"} for way, made in each.items()}
        for each in rounds
    ]
    return [line(client, way, [each[way] for each in rounds]) for way in ("plain", "library")]


def line(client: str, way: str, made: list[dict[str, Any]]) -> list[str]:
    p99 = [percentile(sorted(each["latencies"]), 0.99) for each in made if "latencies" in each]
    return [
        client,
        way,
        f"{median(each['rps'] for each in made):.0f}",
        f"{median(each['cpu_us'] for each in made):.0f}",
        f"{median(p99):.2f}" if p99 else "",
    ]


if __name__ == "__main__":
    main()
