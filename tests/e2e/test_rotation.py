"""Certificates that live for seconds, renewed under load: no call notices. Items C1, C5, C6."""

import os
import time
from contextlib import ExitStack

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


def test_certificates_rotate_under_load_with_a_new_key_each_time_and_no_call_fails(mesh: Mesh) -> None:
    """In both placements at the same time, as all of it is waiting."""
    mesh.apply("---\n".join((*(service(f"orders-of-{way}") for way in WAYS), TLS)))
    pairs = {way: started(mesh, way) for way in WAYS}
    seen: dict[str, dict[bytes, x509.Certificate]] = {way: {} for way in WAYS}
    with ExitStack() as stack:
        loads = [stack.enter_context(each) for way, pair in pairs.items() for each in loads_of(way, *pair)]
        deadline = time.monotonic() + LASTING
        while time.monotonic() < deadline:
            for way, (orders, _) in pairs.items():
                certificate = shown(orders)
                seen[way].setdefault(key_of(certificate), certificate)
                left = certificate.not_valid_after_utc.timestamp() - time.time()
                assert left > 0.2 * LIFETIME, f"the certificate of {way} ends in {left:.1f} s and was not renewed"
            loads[0].lasts(0.5)
    for each in loads:
        each.assert_none_failed()
    for way, certificates in seen.items():
        check(list(certificates.values()))
        told = next(each for each in mesh.status().proxies if each.service == f"shop/orders-of-{way}")
        assert told.certificate_expires_at > time.time()


def started(mesh: Mesh, way: str) -> tuple[Instance, Instance]:
    """A service and its caller."""
    pair = tuple(mesh.run(f"{role}-of-{way}", options=WAYS[way]) for role in ("orders", "caller"))
    mesh.await_ready(*pair)
    until(lambda: pair[1].reaches(f"orders-of-{way}"), "orders answers")
    return pair[0], pair[1]


def loads_of(way: str, _: Instance, caller: Instance) -> tuple[Load, Load]:
    """Calls on connections that are kept, and on new ones."""
    url, where = caller.url(f"orders-of-{way}"), caller.netns
    return Load(url, rate=RATE, namespace=where), Load(url, rate=RATE / 5, is_fresh=True, namespace=where)


def check(found: list[x509.Certificate]) -> None:
    """Each has a key of its own, was in time, and lives as long as was asked for."""
    serials = {certificate.serial_number for certificate in found}
    assert len(serials) == len(found) >= LASTING // (0.6 * LIFETIME) + 1, "a certificate was kept for too long"
    lifetimes = {(one.not_valid_after_utc - one.not_valid_before_utc).total_seconds() - LIFETIME for one in found}
    assert all(0 <= backdated <= 600 for backdated in lifetimes), lifetimes


def test_a_certificate_that_would_end_before_its_renewal_is_refused_as_an_option(mesh: Mesh) -> None:
    for wrong in ("10s", "400d"):
        refused = mesh.masche("up", "--leaf-ttl", wrong, "--api-port", "0", "--xds-port", "0")
        assert refused.returncode == 2
        assert "20s at least" in refused.stderr
