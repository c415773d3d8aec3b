import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from masche.wire import bootstrap, secret, stats
from masche.wire.messages import decode
from masche.wire.pool import DISCOVERY, pool

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from extract_descriptors import envoy_binary


def test_envoy_accepts_the_bootstrap(tmp_path) -> None:
    path = tmp_path / "bootstrap.json"
    body = bootstrap.bootstrap(node_id="n", cluster="y", zone="", xds_socket="/tmp/xds", admin_socket="/tmp/admin")
    path.write_bytes(body)
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", path, "--disable-hot-restart"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(body)["admin"]["address"]["pipe"]["mode"] == 0o600


def test_a_proxy_that_calls_from_an_address_says_so_to_envoy_alone() -> None:
    given = {"node_id": "n", "cluster": "y", "zone": "", "xds_socket": "/tmp/xds", "admin_socket": "/tmp/admin"}
    bound = json.loads(bootstrap.bootstrap(**given, source="127.81.1.1"))["cluster_manager"]["upstream_bind_config"]
    assert bound == {"source_address": {"address": "127.81.1.1", "port_value": 0}}
    assert "upstream_bind_config" not in json.loads(bootstrap.bootstrap(**given)).get("cluster_manager", {})


def test_latency_buckets_double_from_half_a_millisecond_to_a_minute() -> None:
    bounds = stats.LATENCY_US
    assert (bounds[0], bounds[-1]) == (500, 60_000_000)
    assert all(low < high <= low * 1.25 + 1e-9 for low, high in pairwise(bounds))


def test_two_roots_may_be_trusted_at_once() -> None:
    packed = secret.roots(secret.ROOTS, {"mesh.local": b"old\nnew\n", "other": b"x"})
    body = decode("envoy.extensions.transport_sockets.tls.v3.Secret", packed, DISCOVERY)
    domains = body["validation_context"]["custom_validator_config"]["typed_config"]["trust_domains"]
    assert [domain["name"] for domain in domains] == ["mesh.local", "other"]
    assert pool(DISCOVERY) is pool(DISCOVERY)
