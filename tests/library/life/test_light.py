"""What the library loads, and that it starts nothing before it is used."""

import json
import subprocess
import sys

FORBIDDEN = (
    "masche.compiler", "masche.control", "masche.registry", "masche.api", "masche.cli", "masche.agent",
    "masche.model.resources", "masche.model.mesh", "pydantic", "yaml", "click", "rich", "starlette", "uvicorn",
)  # fmt: skip

IMPORTING = """
import json, sys, threading
import masche.library.resident
from masche.library.resident import configure, facade
configure(service_account="script", data="/nonexistent/masche")
facade()
print(json.dumps([sorted(sys.modules), [each.name for each in threading.enumerate()]]))
"""


def imported() -> tuple[list[str], list[str]]:
    run = subprocess.run((sys.executable, "-c", IMPORTING), capture_output=True, text=True, check=True, timeout=60)
    modules, threads = json.loads(run.stdout)
    return modules, threads


def test_the_library_loads_no_control_plane_and_starts_no_thread_before_something_is_called() -> None:
    modules, threads = imported()
    found = [name for name in modules if any(name == each or name.startswith(f"{each}.") for each in FORBIDDEN)]
    assert found == []
    assert threads == ["MainThread"]
