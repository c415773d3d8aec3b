"""masche as a contender: a control plane, an agent, and a sidecar beside each server and each caller."""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from masche.api.client import Client
from masche.api.messages import Document, RolloutState
from masche.cli.stage import Stage
from rig.waiting import until

STEERED = (
    "src/masche/compiler",
    "src/masche/model/calling.py",
    "src/masche/control/helm.py",
    "src/masche/control/sightings.py",
    "src/masche/agent/report.py",
    "src/masche/agent/sight.py",
)
"""What decides which instance gets how much: a figure about it is out of date when one of these changes."""

NAMESPACE = "shop"
SERVICE = "servers"

_IDLE = (
    "import json, os, pathlib, signal; pathlib.Path(os.environ['SHEET']).write_text(json.dumps(dict(os.environ)));"
    "signal.pause()"
)


class MascheMesh:
    """Everything encrypted and with the proxies of both ends in the way. ``urls`` are those of the callers."""

    def __init__(
        self, name: str = "masche", *, callers: int = 1, policy: str = "", zones: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._callers = callers
        self._policy = policy
        self._zones = zones or {}
        self.urls: list[str] = []
        self.stage = Stage(Path(tempfile.mkdtemp(prefix="masche-bench-")))

    @property
    def client(self) -> Client:
        return self.stage.client

    def start(self, backends: Mapping[str, int]) -> None:
        self.stage.start_control_plane()
        for name, port in backends.items():
            self.serve(name, port)
        self.until_ready(SERVICE, len(backends))
        if self._policy:
            self.apply(self._policy)
        self.urls = [self.caller(f"caller-{number}") for number in range(self._callers)]

    def serve(self, name: str, port: int) -> None:
        """Make a server that listens already an instance of the service."""
        self.run(name, SERVICE, port=port)

    def run(self, name: str, service: str, *, port: int = 0, options: Sequence[str] = ()) -> None:
        """Put a sidecar beside a server that listens already (or beside nothing, for a caller)."""
        words = ["run", "--service", service, "--namespace", NAMESPACE, *options]
        if port:
            words += ["--port", f"http:{port}"]
        extra = {"SHEET": str(self.stage.folder / f"{name}.json")}
        self.stage.start(name, [*words, "--", sys.executable, "-c", _IDLE], extra)

    def until_ready(self, service: str, count: int) -> None:
        """Wait until so many instances of a service take calls."""
        until(lambda: len(self.stage.ready(service)) == count, f"{count} of {service} did not become ready")

    def caller(self, name: str, service: str = SERVICE, *, options: Sequence[str] = ()) -> str:
        """Start a caller and return the URL at which it reaches the service."""
        self.run(name, name, options=options)
        return self.url_of(name, service)

    def url_of(self, name: str, service: str) -> str:
        """The URL at which one that was started reaches a service."""
        sheet = self.stage.folder / f"{name}.json"
        until(sheet.exists, f"{name} did not start: {self.stage.last_words(name)}")
        until(lambda: sheet.read_text().endswith("}"), f"{name} wrote no sheet")
        return json.loads(sheet.read_text())[f"{service.upper().replace('-', '_')}_URL"] + "/"

    def apply(self, text: str) -> None:
        applied = self.client.apply([Document(file="bench.yaml", text=text)])
        until(lambda: self.client.progress(applied.revision).state is RolloutState.LIVE, "the policy is not live")

    def close(self) -> None:
        self.stage.close()
        shutil.rmtree(self.stage.folder, ignore_errors=True)
