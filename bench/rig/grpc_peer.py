"""grpcio's own xDS client as a contender: sidecars beside the servers, callers without a proxy and without our library.

What it can do against an instance that became slow is outlier detection by the share of errors, so that is asked for.
"""

import json
import sys
from pathlib import Path

from rig.library import LibraryMesh
from rig.mesh import NAMESPACE, SERVICE, MascheMesh
from rig.waiting import until

CARRIED_OUT = ("src/masche/compiler/proxyless",)
"""What decides what it is told."""

PROGRAM = Path(__file__).parent / "grpc_caller.py"

BY_SHARE = """
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {name: by-share, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: servers}]
  outlierEjection: {errorPercent: 50}
"""


class GrpcMesh(LibraryMesh):
    """The callers use ``xds:///servers.shop:80``; ``masche run`` gives them a bootstrap and nothing else."""

    def __init__(self, name: str = "grpcio xds + outlier", *, callers: int = 1, policy: str = BY_SHARE) -> None:
        super().__init__(name, callers=callers, policy=policy)

    def caller(self, name: str, service: str = SERVICE, *, options: object = ()) -> str:
        del options
        target = f"xds:///{service}.{NAMESPACE}:80"
        self.begin_program(name, [sys.executable, str(PROGRAM), target], bootstrapped(self, name))
        return target


def bootstrapped(mesh: MascheMesh, name: str) -> dict[str, str]:
    """The environment of a program that has a bootstrap from ``masche run`` for grpcio, and nothing else."""
    mesh.run(name, name, options=("--placement", "library"))
    sheet = mesh.stage.folder / f"{name}.json"
    until(lambda: sheet.exists() and sheet.read_text().endswith("}"), f"{name}: {mesh.stage.last_words(name)}")
    return json.loads(sheet.read_text())
