"""masche's library placement as a contender: sidecars beside the servers, and callers that are Python programs."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rig.load import Call, Plan, call_of
from rig.mesh import NAMESPACE, SERVICE, STEERED, MascheMesh
from rig.ports import free_port

CARRIED_OUT = (*STEERED, "src/masche/library", "src/masche/traffic")
"""What decides how the library calls: a figure about it is out of date when one of these changes."""

PROGRAM = Path(__file__).parent / "library_caller.py"


class LibraryMesh(MascheMesh):
    """The callers carry out the mesh in their own processes: nothing stands between them and the servers' sidecars."""

    def __init__(self, name: str = "masche library", *, callers: int = 1, policy: str = "") -> None:
        super().__init__(name, callers=callers, policy=policy)
        self._programs: list[subprocess.Popen[str]] = []

    def caller(self, name: str, service: str = SERVICE, *, options: object = ()) -> str:
        del options
        environment = {
            **self.stage.environment(),
            "MASCHE_SERVICE_ACCOUNT": name,
            "MASCHE_NAMESPACE": NAMESPACE,
            "PYTHONPATH": ":".join(sys.path),
        }
        url = f"http://{service}.{NAMESPACE}/"
        self.begin_program(name, [sys.executable, str(PROGRAM), url], environment)
        return url

    def begin_program(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Start one caller and wait until it can call."""
        log = self.stage.folder / f"{name}.calls.log"
        with log.open("w") as said:
            program = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        self._programs.append(program)
        assert program.stdout
        if program.stdout.readline().strip() != "ready":
            raise SystemExit(f"{name} did not join the mesh: {log.read_text()[-2000:]}")

    def call(self, plan: Plan) -> "LibraryCalls":
        """Begin a plan, shared evenly by the callers."""
        share = replace(plan, rate=plan.rate / len(self._programs))
        return LibraryCalls(dict(zip(self._programs, plan.urls, strict=True)), share)

    def close(self) -> None:
        for program in self._programs:
            assert program.stdin
            program.stdin.close()
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        super().close()


class LibraryAtBothEnds(LibraryMesh):
    """The servers carry out the mesh in their own processes, too: no proxy is anywhere."""

    def __init__(self, name: str = "masche library at both ends", *, callers: int = 1) -> None:
        super().__init__(name, callers=callers)

    def serve(self, name: str, port: int) -> None:
        words = ["serve", "rig.library_server:app", "--service", SERVICE, "--namespace", NAMESPACE]
        extra = {"NEXT": f"http://127.0.0.1:{port}/", "PYTHONPATH": ":".join(sys.path)}
        self.stage.start(name, [*words, "--host", "127.0.0.1", "--port", str(free_port())], extra)


class LibraryCalls:
    """The calls of one plan, under way."""

    def __init__(self, urls: Mapping["subprocess.Popen[str]", str], plan: Plan) -> None:
        self._programs = list(urls)
        for program, url in urls.items():
            assert program.stdin
            body = {
                "url": url,
                "rate": plan.rate,
                "seconds": plan.seconds,
                "timeout": plan.timeout,
                "method": plan.method,
                "headers": dict(plan.headers or {}),
            }
            program.stdin.write(json.dumps(body) + "\n")
            program.stdin.flush()
        self.started_at = min(self._started(program) for program in self._programs)

    @staticmethod
    def _started(program: "subprocess.Popen[str]") -> float:
        assert program.stdout
        words = program.stdout.readline().split()
        assert words[:1] == ["started"], f"the caller said {words}"
        return int(words[1]) / 1e6

    def wait(self) -> list[Call]:
        """All calls, in the order in which they were to be sent."""
        found: list[Call] = []
        for index, program in enumerate(self._programs):
            assert program.stdout
            while (line := program.stdout.readline().rstrip("\n")) != "ended":
                assert line, "the caller ended"
                found.append(call_of(line.split("\t"))._replace(url=index))
        return sorted(found, key=lambda call: call.sent)
