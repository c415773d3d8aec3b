"""Certificates that live for seconds, renewed under load: no call notices. Items C1, C5, C6."""

import os
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from e2e.load import Load
from e2e.mesh import ON_THE_NODE, Instance, Mesh, service
from e2e.waiting import until
from masche.cli.stage import shown_certificate

LIFETIME = 20.0
IS_LONG = os.environ.get("MASCHE_LONG") == "1"
LASTING, RATE = (300.0, 100.0) if IS_LONG else (26.0, 40.0)
PLANE = ("--leaf-ttl", f"{LIFETIME:g}s")
TLS = "apiVersion: masche.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {sameMachine: tls}\n"
WAYS = {"sidecar": (), "node": ON_THE_NODE}
"""Placements; on a node every caller fetches its certificate when it is called for."""
pytestmark = [pytest.mark.root, pytest.mark.timeout(500)]


def shown(instance: Instance) -> x509.Certificate:
    return x509.load_der_x509_certificate(shown_certificate("127.0.0.1", instance.mesh_port))


def key_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("way", WAYS)
def test_certificates_rotate_under_load_with_a_new_key_each_time_and_no_call_fails(mesh: Mesh, way: str) -> None:
    name, options = f"orders-of-{way}", WAYS[way]
    mesh.apply(service(name) + TLS)
    orders, caller = mesh.run(name, options=options), mesh.run(f"caller-of-{way}", options=options)
    mesh.await_ready(orders, caller)
    until(lambda: caller.reaches(name), "orders answers")
    seen: dict[bytes, x509.Certificate] = {}
    url, where = caller.url(name), caller.netns
    with (
        Load(url, rate=RATE, namespace=where) as kept,
        Load(url, rate=RATE / 5, is_fresh=True, namespace=where) as fresh,
    ):
        deadline = time.monotonic() + LASTING
        while time.monotonic() < deadline:
            certificate = shown(orders)
            seen.setdefault(key_of(certificate), certificate)
            left = certificate.not_valid_after_utc.timestamp() - time.time()
            assert left > 0.2 * LIFETIME, f"its certificate ends in {left:.1f} s and was not renewed"
            kept.lasts(0.5)
    kept.assert_none_failed()
    fresh.assert_none_failed()
    serials = {certificate.serial_number for certificate in seen.values()}
    assert len(serials) == len(seen) >= LASTING // (0.6 * LIFETIME) + 1, "a certificate was kept for too long"
    lifetimes = {
        (one.not_valid_after_utc - one.not_valid_before_utc).total_seconds() - LIFETIME for one in seen.values()
    }
    assert all(0 <= backdated <= 600 for backdated in lifetimes), lifetimes
    told = next(each for each in mesh.status().proxies if each.service == f"shop/{name}")
    assert told.certificate_expires_at > time.time()


def test_a_certificate_that_would_end_before_its_renewal_is_refused_as_an_option(mesh: Mesh) -> None:
    for wrong in ("10s", "400d"):
        refused = mesh.masche("up", "--leaf-ttl", wrong, "--api-port", "0", "--xds-port", "0")
        assert refused.returncode == 2
        assert "20s at least" in refused.stderr
