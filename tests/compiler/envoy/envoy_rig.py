"""A real Envoy with a small delta ADS server of its own, certificates, and an application to call."""

import http.client
import json
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from masche.model.blob import Blob
from masche.wire import bootstrap, discovery, framing, secret, types
from taken_ports import PROXIES

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
from extract_descriptors import envoy_binary

DEADLINE = 10.0


def wait_until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    end = time.monotonic() + deadline
    while True:
        try:
            if value := condition():
                return value
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline} s for {what}")
        time.sleep(0.01)


def free_port() -> int:
    """A port below the ephemeral range that nobody has, and no other test gets."""
    return PROXIES.free()


@dataclass(frozen=True)
class Authority:
    """A trust domain with one root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    @cache
    def named(cls, name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = _builder(subject, subject, key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        return cls(built.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *identities: str, dns: str = "") -> tuple[bytes, bytes]:
        """A chain and a key, in PEM, for SPIFFE IDs (or a DNS name)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(each) for each in identities]
        names += [x509.DNSName(dns)] if dns else []
        built = (
            _builder(x509.Name([]), self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(_signing_only(), critical=True)
        )
        pem = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return (
            built.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, *pem),
        )


def _signing_only() -> x509.KeyUsage:
    """SPIFFE wants it said that a leaf signs handshakes and no certificates; Envoy refuses one that says nothing."""
    never = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    never += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(digital_signature=True, **dict.fromkeys(never, False))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
    )


def secrets(authority: Authority, identity: str, *roots: Authority) -> tuple[Blob, ...]:
    """What an agent would answer for a workload: its certificate, and whom it trusts."""
    trusted = b"".join(each.pem for each in roots or (authority,))
    certificate = secret.certificate(secret.CERTIFICATE, *authority.issue(identity))
    return (
        framing.blob(types.SECRET, secret.CERTIFICATE, certificate),
        framing.blob(types.SECRET, secret.ROOTS, secret.roots(secret.ROOTS, {"mesh.local": trusted})),
    )


@dataclass
class Ads:
    """Serves one set of Blobs to one Envoy, and remembers what it rejected."""

    wanted: dict[str, dict[str, Blob]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    outstanding: set[str] = field(default_factory=set)
    events: "queue.Queue[discovery.DeltaRequest | None]" = field(default_factory=queue.Queue)
    held: dict[str, dict[str, str]] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    subscribed: dict[str, set[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, blobs: Iterable[Blob]) -> None:
        with self.lock:
            self.wanted = {}
            for blob in blobs:
                self.wanted.setdefault(blob.type_url, {})[blob.name] = blob
        self.events.put(None)

    def stream(self, requests, context):
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        while context.is_active():
            try:
                request = self.events.get(timeout=0.5)
            except queue.Empty:
                continue
            with self.lock:
                if request is not None:
                    self._note(request)
                responses = [*self._due()]
            yield from responses

    def _read(self, requests) -> None:
        try:
            for request in requests:
                self.events.put(discovery.decode_delta_request(request))
        except grpc.RpcError:
            return

    def _note(self, request: discovery.DeltaRequest) -> None:
        self.outstanding.discard(request.nonce)
        if request.error_code:
            self.errors.append(request.error_message)
        names = self.subscribed.setdefault(request.type_url, set())
        names.update(request.subscribe)
        names.difference_update(request.unsubscribe)
        held = self.held.setdefault(request.type_url, {})
        for name in (*request.subscribe, *request.unsubscribe):
            held.pop(name, None)

    def _due(self):
        for type_url in (*types.MAKE_BEFORE_BREAK, types.SECRET):
            if type_url not in self.subscribed:
                continue
            available, held = self.wanted.get(type_url, {}), self.held[type_url]
            if type_url not in {types.CLUSTER, types.LISTENER}:
                available = {name: blob for name, blob in available.items() if name in self.subscribed[type_url]}
            changed = [blob for name, blob in available.items() if held.get(name) != blob.version]
            removed = [name for name in held if name not in available]
            is_first = type_url in {types.CLUSTER, types.LISTENER} and type_url not in self.answered
            if changed or removed or is_first:
                self.answered.add(type_url)
                if type_url == types.CLUSTER:
                    for blob in changed:
                        self.held.get(types.ENDPOINTS, {}).pop(blob.eds_name, None)
                held.clear()
                held.update({name: blob.version for name, blob in available.items()})
                nonce = str(time.monotonic_ns())
                self.outstanding.add(nonce)
                yield discovery.encode_delta_response(type_url, nonce, [blob.frame for blob in changed], removed)


class Envoy:
    """One Envoy process, configured by Blobs."""

    def __init__(self, folder: Path, log_level: str = "warning") -> None:
        self.folder = folder
        self.ads = Ads()
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.stream_stream_rpc_method_handler(self.ads.stream)
        service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"DeltaAggregatedResources": handler}),)
        )
        self._server.add_insecure_port(f"unix:{folder}/xds.sock")
        self._server.start()
        config = folder / "bootstrap.json"
        config.write_bytes(
            bootstrap.bootstrap(
                node_id="proxy",
                cluster="test",
                zone="a",
                xds_socket=f"{folder}/xds.sock",
                admin_socket=f"{folder}/admin.sock",
            )
        )
        self._log = (folder / "envoy.log").open("wb")
        command = [envoy_binary(), "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", log_level]
        command += ["--file-flush-interval-msec", "50", "--drain-time-s", "2"]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._server.stop(None).wait()
        self._log.close()

    @property
    def log(self) -> str:
        return (self.folder / "envoy.log").read_text()

    def admin(self, path: str, method: str = "GET") -> str:
        connection = http.client.HTTPConnection("admin")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        try:
            connection.sock.connect(f"{self.folder}/admin.sock")
            connection.request(method, path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def put(self, blobs: Iterable[Blob]) -> None:
        """Replace what Envoy should have, and wait until all of it is active; a rejection is raised."""
        blobs = tuple(blobs)
        self.ads.errors.clear()
        self.ads.put(blobs)
        wanted = {
            type_url: {blob.name: blob.version for blob in blobs if blob.type_url == type_url}
            for type_url in (types.CLUSTER, types.LISTENER)
        }
        routes = {blob.name: blob.version for blob in blobs if blob.type_url == types.ROUTES}
        wait_until(lambda: self._is_live(wanted, routes), "Envoy to accept its configuration")
        assert not self.ads.errors, self.ads.errors

    def _is_live(self, wanted: Mapping[str, Mapping[str, str]], routes: Mapping[str, str]) -> bool:
        assert self.process.poll() is None, self.log
        if self.ads.errors:
            return True
        found = _active(json.loads(self.admin("/config_dump")))
        loaded = found.pop(types.ROUTES)
        # The version that Envoy shows of a listener stays the old one when its filter chains are exchanged in place.
        is_there = found[types.CLUSTER] == wanted[types.CLUSTER] == self.ads.held.get(types.CLUSTER)
        is_there = is_there and found[types.LISTENER].keys() == wanted[types.LISTENER].keys()
        is_there = is_there and wanted[types.LISTENER] == self.ads.held.get(types.LISTENER)
        return (
            is_there
            and not self.ads.outstanding
            and all(loaded.get(name, routes[name]) == routes[name] for name in routes)
        )

    def stats(self, prefix: str) -> dict[str, float]:
        """Lines of the Prometheus text that start with ``prefix``, by name and labels."""
        lines = self.admin("/stats/prometheus").splitlines()
        return {
            name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name.startswith(prefix)
        }


def _active(dump: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {types.CLUSTER: {}, types.LISTENER: {}, types.ROUTES: {}}
    for part in dump["configs"]:
        for each in part.get("dynamic_active_clusters", ()):
            found[types.CLUSTER][each["cluster"]["name"]] = each["version_info"]
        for each in part.get("dynamic_listeners", ()):
            if "warming_state" not in each and "active_state" in each:
                found[types.LISTENER][each["name"]] = each["active_state"].get("version_info", "")
        for each in part.get("dynamic_route_configs", ()):
            found[types.ROUTES][each["route_config"]["name"]] = each["version_info"]
        for each in part.get("dynamic_warming_clusters", ()):
            found[types.CLUSTER][each["cluster"]["name"]] = "warming"
    return found


def short_folder() -> Path:
    """A folder whose path is short enough for a Unix socket."""
    return Path(tempfile.mkdtemp(prefix="me"))


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
