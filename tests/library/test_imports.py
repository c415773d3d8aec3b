"""What an import of the library takes with it, in a process of its own: the client it is for, and no more."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys, threading
import {module}
print(json.dumps({{"modules": sorted(sys.modules), "threads": threading.active_count()}}))
"""

CONTROL_PLANE = {
    "masche.agent", "masche.api", "masche.cli", "masche.compiler", "masche.control", "masche.registry",
    "masche.model.mesh", "masche.model.resources",
}  # fmt: skip
HEAVY = {"click", "jinja2", "numpy", "pydantic", "rich", "sqlite3", "starlette", "statistics", "yaml"}
ASKING = {"h2", "google.protobuf", "masche.library.life.life", "masche.wire.decode.decoders", "masche.xds.client"}
"""What the resident's thread loads once something is called; no import has to pay for it."""
CLIENTS = {"aiohttp", "httpx", "httpx2", "requests", "urllib3", "uvicorn", "hypercorn", "gunicorn"}

OWN = {
    "masche.library": set[str](),
    "masche.library.resident": set[str](),
    "masche.library.core.tls": set[str](),
    "masche.library.aiohttp": {"aiohttp"},
    "masche.library.requests": {"requests", "urllib3"},
    "masche.library.httpx": set[str](),
    "masche.library.asgi": set[str](),
    "masche.library.wsgi": set[str](),
}
"""Modules that users import, and the clients that come with each: httpx is told by the first request which it is."""


@pytest.mark.parametrize("module", OWN)
def test_an_import_takes_no_control_plane_nothing_heavy_and_no_other_client(module: str) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(module=module)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    told = json.loads(found.stdout)
    loaded = set(told["modules"])
    assert module in loaded
    assert {
        name for name in loaded if name in CONTROL_PLANE or name.startswith(tuple(f"{each}." for each in CONTROL_PLANE))
    } == set()
    assert loaded & (CLIENTS - OWN[module]) == set()
    assert told["threads"] == 1, "an import starts nothing"
    assert loaded & (HEAVY | ASKING) == set()


LIVING = """
import json, sys
import masche.library.life.life
import masche.library.life.asking
import masche.library.life.entry
import masche.rpc.channel
print(json.dumps({"modules": sorted(sys.modules)}))
"""


def test_who_lives_in_the_mesh_loads_no_authority_no_encoder_and_nothing_for_grpc_applications() -> None:
    found = subprocess.run([sys.executable, "-c", LIVING], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(found.stdout)["modules"])
    assert "masche.wire.decode.decoders" in loaded
    assert loaded & {
        "google.protobuf.descriptor_pb2", "google.protobuf.descriptor_pool", "google.protobuf.internal.python_message",
        "google.protobuf.json_format", "google.protobuf.text_format", "masche.identity.authority",
        "masche.identity.bundle",
        "grpc", "masche.library.life.outlet", "masche.link.joining", "masche.wire.messages",
    } == set()  # fmt: skip


def test_workers_of_gunicorn_share_what_its_master_has_loaded_for_them() -> None:
    program = PROGRAM.format(module="masche.library.gunicorn")
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert set(json.loads(found.stdout)["modules"]) >= ASKING


def test_the_package_itself_is_nothing() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module="masche.library")], capture_output=True, text=True, check=True
    )
    assert {name for name in json.loads(found.stdout)["modules"] if name.startswith("masche")} == {
        "masche",
        "masche.library",
    }
