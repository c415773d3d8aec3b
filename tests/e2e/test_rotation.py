"""Certificates that live for seconds, renewed under load: no call notices. Items C1, C5, C6."""

import os
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from e2e.load import Load
from e2e.mesh import Instance, Mesh, service
from e2e.waiting import until
from masche.cli.stage import shown_certificate

LIFETIME = 20.0
LASTING = 300.0 if os.environ.get("MASCHE_LONG") == "1" else 26.0
PLANE = ("--leaf-ttl", f"{LIFETIME:g}s")
pytestmark = pytest.mark.timeout(500)


def shown(instance: Instance) -> x509.Certificate:
    return x509.load_der_x509_certificate(shown_certificate("127.0.0.1", instance.mesh_port))


def key_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_certificates_rotate_under_load_with_a_new_key_each_time_and_no_call_fails(mesh: Mesh) -> None:
    mesh.apply(service("orders"))
    orders, caller = mesh.run("orders"), mesh.run("caller")
    mesh.await_ready(orders, caller)
    until(lambda: caller.reaches("orders"), "orders answers")
    seen: dict[bytes, x509.Certificate] = {}
    with Load(caller.url("orders"), rate=100) as kept, Load(caller.url("orders"), rate=20, is_fresh=True) as fresh:
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
    told = next(each for each in mesh.status().proxies if each.service == "shop/orders")
    assert told.certificate_expires_at > time.time()


def test_a_certificate_that_would_end_before_its_renewal_is_refused_as_an_option(mesh: Mesh) -> None:
    for wrong in ("10s", "400d"):
        refused = mesh.masche("up", "--leaf-ttl", wrong, "--api-port", "0", "--xds-port", "0")
        assert refused.returncode == 2
        assert "20s at least" in refused.stderr
