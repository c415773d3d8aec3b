"""Envoys configured by hand, with nothing of ours: what the proxies of a mesh cost at the least.

A pair: the caller's takes HTTP/1.1 and speaks HTTP/2 over mutual TLS 1.3 to the callee's, which speaks HTTP/1.1 to the
application. No statistics beyond Envoy's own, no policies, no log.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rig.machine import ROOT
from rig.waiting import until

sys.path.insert(0, str(ROOT / "scripts"))
from extract_descriptors import envoy_binary

_V3 = "type.googleapis.com/envoy.extensions"
Pem = tuple[bytes, bytes]
"""A chain and its key."""


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _typed(name: str, kind: str, **body: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_V3}.{kind}", **body}}


def _manager(**body: Any) -> dict[str, Any]:
    router = _typed("envoy.filters.http.router", "filters.http.router.v3.Router")
    return _typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        http_filters=[router],
        **body,
    )


def _to(cluster: str) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
    return {"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}}


def _listener(port: int, manager: dict[str, Any], **chain: Any) -> dict[str, Any]:
    return {"name": "in", "address": _address(port), "filter_chains": [{"filters": [manager], **chain}]}


def _cluster(port: int, **more: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    assigned = {"cluster_name": "out", "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": "out", "type": "STATIC", "connect_timeout": "1s", "load_assignment": assigned, **more}


def _tls(own: Pem, root: bytes) -> dict[str, Any]:
    chain, key = own
    certificate = {
        "certificate_chain": {"inline_string": chain.decode()},
        "private_key": {"inline_string": key.decode()},
    }
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [certificate],
        "validation_context": {"trusted_ca": {"inline_string": root.decode()}},
    }


def application(port: int) -> dict[str, Any]:
    """An application that answers at once; an Envoy, too, since it costs little."""
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "fourteen bytes"}}}
    hosts = {"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}}
    return {"static_resources": {"listeners": [_listener(port, _manager(**hosts))]}}


def caller(port: int, callee_port: int, own: Pem, root: bytes) -> dict[str, Any]:
    """The caller's half."""
    options = "upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"{_V3}.{options}", "explicit_http_config": {"http2_protocol_options": {}}}
    socket = _typed(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context=_tls(own, root),
    )
    cluster = _cluster(
        callee_port,
        transport_socket=socket,
        typed_extension_protocol_options={f"envoy.extensions.{options}": http2},
    )
    return {"static_resources": {"listeners": [_listener(port, _manager(**_to("out")))], "clusters": [cluster]}}


def callee(port: int, application_port: int, own: Pem, root: bytes) -> dict[str, Any]:
    """The callee's half."""
    socket = _typed(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=_tls(own, root),
    )
    listener = _listener(port, _manager(**_to("out")), transport_socket=socket)
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(application_port)]}}


@contextmanager
def running(folder: Path, body: dict[str, Any], namespace_path: str = "") -> Iterator[int]:
    """Run one Envoy, with one worker, in a network namespace ("": our own); yield its process id once it listens."""
    port = body["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"]
    path = folder / f"bare-{port}.json"
    path.write_text(json.dumps(body))
    command = ["nsenter", f"--net={namespace_path}"] if namespace_path else []
    command += [envoy_binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    process = subprocess.Popen(command)
    try:
        until(lambda: _listens(process.pid, port), f"an Envoy to listen on {port}")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _listens(process: int, port: int) -> bool:
    """What a process sees of sockets is what its own namespace has."""
    lines = Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)
