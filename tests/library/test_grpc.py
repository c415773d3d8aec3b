"""What a process gives gRPC's own xDS client: a bootstrap, files that are its user's alone, and nothing to a child."""

import json
import os
import stat
from pathlib import Path

import pytest

from library.issuing import Issuing
from masche.library import grpc
from masche.library.core.ports import MeshError
from masche.library.life import occupant
from masche.library.life.occupant import Health
from masche.library.life.options import Options
from masche.library.life.outlet import Outlet
from masche.model.port import Port
from masche.model.refs import Name
from masche.model.vantage import Dialect

OWN = Name("shop", "web-1a2b3c")


@pytest.fixture
def mesh(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path / "authority")


def test_what_grpc_reads_is_ours_alone_follows_the_certificate_and_goes_with_us(mesh: Issuing):
    certificates = mesh.certificates("web")
    outlet = Outlet(OWN, service="web", zone="z1", presented=certificates.presented)
    outlet.show()
    told = json.loads(outlet.bootstrap.read_text())
    assert told["node"] == {"id": "library~web-1a2b3c-grpc.shop", "cluster": "web", "locality": {"zone": "z1"}}
    files = told["certificate_providers"]["default"]["config"]
    folder = outlet.bootstrap.parent
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    before = Path(files["certificate_file"]).read_text()
    mesh.renew(certificates, "web")
    outlet.show()
    assert Path(files["certificate_file"]).read_text() == certificates.presented().chain != before
    assert Path(files["private_key_file"]).read_bytes() == certificates.presented().key.reveal()
    outlet.close()
    assert not folder.exists()


def test_who_asks_for_grpc_stands_beside_us_and_nobody_calls_it():
    options = Options(service="web", namespace="shop", labels={"tier": "gold"})
    ours = occupant.proxy_state(
        options, OWN, [Port(port=8443)], zone="z1", address="10.0.0.1", health=Health(phase="DRAINING")
    )
    outlet = Outlet(OWN, service="web", zone="z1", presented=lambda: pytest.fail("nothing is shown"))
    beside = outlet.state(ours)
    outlet.close()
    (mine,), (its,) = ours.occupants, beside.occupants
    assert (beside.dialect, beside.proxy) == (Dialect.GRPC, outlet.proxy)
    assert (its.service_account, its.zone, its.dependencies) == (mine.service_account, mine.zone, mine.dependencies)
    assert (its.labels, its.ports, its.service, its.seat.ports, its.state.phase) == ({}, (), None, (), "READY")


def test_a_server_by_xds_without_a_bootstrap_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(grpc.BOOTSTRAP, raising=False)
    with pytest.raises(MeshError, match="masche run --placement library"):
        grpc.server_credentials()


def test_a_program_that_was_started_by_such_a_process_does_not_ask_as_it_either(monkeypatch: pytest.MonkeyPatch):
    """It inherits the variable with the environment, and is somebody else."""
    monkeypatch.setenv(grpc.BOOTSTRAP, "/dev/shm/masche-grpc-abc/grpc-bootstrap.json")
    with pytest.raises(MeshError, match="masche run --placement library"):
        grpc.server_credentials()
    assert grpc.BOOTSTRAP not in os.environ


def test_a_child_does_not_ask_as_its_parent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(grpc.BOOTSTRAP, "/tmp/ours")
    monkeypatch.setattr(grpc._own, "path", "/tmp/ours")
    grpc._after_in_child()
    assert grpc.BOOTSTRAP not in os.environ
    monkeypatch.setenv(grpc.BOOTSTRAP, "/tmp/of-masche-run")
    grpc._after_in_child()
    assert os.environ[grpc.BOOTSTRAP] == "/tmp/of-masche-run"
