"""Somebody on another machine who says of every request, and of every connection, under whose certificate it came."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from applications import serving
from cryptography import x509
from envoy_rig import Authority, envoy_binary, free_port, wait_until

from masche.agent.capture.sockets import in_namespace

_V3 = "type.googleapis.com/envoy.extensions"


@contextmanager
def requests_witness(authority: Authority, identity: str, folder: Path) -> Iterator[int]:
    """An Envoy that answers every request with the caller's SPIFFE ID, in HTTP/1.1 as in HTTP/2."""
    chain, key = (each.decode() for each in authority.issue(identity))
    number = free_port()
    path = folder / "witness.json"
    path.write_text(json.dumps(_configuration(number, chain, key, authority.pem.decode())))
    command = [envoy_binary(), "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: _is_open(number), "the witness to listen")
        yield number
    finally:
        process.kill()
        process.wait()


def _is_open(number: int) -> bool:
    with socket.create_connection(("127.0.0.1", number)):
        return True


def _configuration(number: int, chain: str, key: str, root: str, said: str = "%DOWNSTREAM_PEER_URI_SAN%") -> dict:
    header = [{"header": {"key": "x-peer", "value": said}}]
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}, "response_headers_to_add": header}
    manager = {
        "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "witness",
        "forward_client_cert_details": "ALWAYS_FORWARD_ONLY",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_V3}.filters.http.router.v3.Router"}}],
    }
    tls = {
        "@type": f"{_V3}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [
                {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
            ],
            "validation_context": {"trusted_ca": {"inline_string": root}},
        },
    }
    chain_of_filters = {
        "filters": [{"name": "manager", "typed_config": manager}],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    return {
        "static_resources": {
            "listeners": [{"name": "witness", "address": address, "filter_chains": [chain_of_filters]}]
        }
    }


@contextmanager
def neighbours_witness(namespace_path: str, folder: Path) -> Iterator[int]:
    """An application that answers every request with what its proxy says of the caller."""
    number = free_port()
    body = _configuration(number, "", "", "", said="%REQ(x-forwarded-client-cert)%")
    del body["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]
    path = folder / "neighbour.json"
    path.write_text(json.dumps(body))
    command = ["nsenter", f"--net={namespace_path}", envoy_binary(), "-c", str(path)]
    process = subprocess.Popen([*command, "--concurrency", "1", "--disable-hot-restart", "-l", "error"])
    try:
        wait_until(lambda: in_namespace(namespace_path, lambda: _is_open(number)), "the neighbour to listen")
        yield number
    finally:
        process.kill()
        process.wait()


@contextmanager
def connections_witness(authority: Authority, identity: str, folder: Path) -> Iterator[int]:
    """A server of bytes that says first, before it is asked, who connected to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem, root = folder / "own.pem", folder / "root.pem"
    pem.write_bytes(b"".join(authority.issue(identity)))
    root.write_bytes(authority.pem)
    context.load_cert_chain(pem)
    context.load_verify_locations(root)
    context.verify_mode = ssl.CERT_REQUIRED

    def greet(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as told:
            shown = x509.load_der_x509_certificate(told.getpeercert(binary_form=True) or b"")
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            resumed = b" resumed" if told.session_reused else b""
            told.sendall(names[0].value.encode() + resumed + b"\n")
            told.recv(1)

    with serving(greet) as number:
        yield number


def together(workers: list[threading.Thread]) -> None:
    """Run these at the same time, to their end."""
    for each in workers:
        each.start()
    for each in workers:
        each.join()
