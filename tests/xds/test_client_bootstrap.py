"""The bootstrap of gRFC A27: what is taken from it, what is ignored and said, and what is refused with a place."""

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
import pytest
from test_mutual_tls import CONTROL, MACHINE, Authority
from xds_messages import free_port
from xds_plane import Plane, serving

from masche.identity import transport
from masche.identity.tls import mutual_server_credentials
from masche.wire import framing, grpc_bootstrap
from masche.wire.discovery import encode_node
from masche.wire.types import CLUSTER
from masche.xds.client import XdsClient
from masche.xds.client_bootstrap import Bootstrap, BootstrapError, CertificateFiles, from_environment, parse
from masche.xds.server import handlers
from masche.xds.wanted import Wanted

INSECURE = {"server_uri": "10.0.0.1:18000", "channel_creds": [{"type": "insecure"}]}


def bootstrap(*servers: dict[str, Any], **more: object) -> bytes:
    return json.dumps({"xds_servers": servers or [INSECURE], **more}).encode()


def test_control_planes_the_node_and_the_template_are_taken_over():
    node = {
        "id": "me",
        "cluster": "shop",
        "metadata": {"a": 1},
        "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
    }
    second = {**INSECURE, "server_uri": "10.0.0.2:18000", "server_features": ["ignore_resource_deletion", "xds_v3"]}
    found = parse(
        bootstrap(INSECURE, second, node=node, client_default_listener_resource_name_template="x/%s"), source="file"
    )
    assert [(plane.name, plane.ignores_deletion) for plane in found.planes] == [
        ("10.0.0.1:18000", False),
        ("10.0.0.2:18000", True),
    ]
    assert (found.node.id, found.node.cluster, found.node.metadata) == ("me", "shop", {"a": 1})
    assert (found.node.region, found.node.zone, found.node.sub_zone) == ("r", "z", "s")
    assert found.node.agent == "masche"
    assert encode_node(found.node)
    assert found.template == "x/%s"
    assert found.ignored == ()


def test_the_first_credentials_that_are_known_are_used():
    creds = [{"type": "google_default"}, {"type": "insecure"}]
    assert parse(bootstrap({**INSECURE, "channel_creds": creds}), source="file").planes


FILES = {"certificate_file": "/c", "private_key_file": "/k", "ca_certificate_file": "/r", "refresh_interval": "5s"}
WATCHER = {"plugin_name": "file_watcher", "config": FILES}


def test_certificates_come_from_the_files_of_the_first_provider_that_watches_files():
    found = parse(bootstrap(certificate_providers={"other": {"plugin_name": "x"}, "one": WATCHER}), source="file")
    assert found.certificates == CertificateFiles(chain="/c", key="/k", roots="/r", refresh=5.0)
    assert found.ignored == (
        "file: `$.certificate_providers['other']` is ignored: 'x' is not carried out here; use 'file_watcher'",
    )


def test_what_is_not_carried_out_is_named_with_its_reason():
    found = parse(
        bootstrap(certificate_providers={"one": WATCHER, "two": WATCHER}, authorities={"a": {}}, something_else=1),
        source="file",
    )
    authorities, providers = found.ignored
    assert authorities.startswith(
        "file: `$.authorities` is ignored: resources are asked for by plain names; federation"
    )
    assert "shows one certificate" in providers


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({**FILES, "private_key_file": ""}, "are all needed"),
        ({**FILES, "refresh_interval": "soon"}, "'soon' is no duration"),
        ({**FILES, "refresh_interval": 5}, "Expected `str`, got `int`"),
    ],
)
def test_a_provider_of_certificates_that_cannot_be_is_refused_with_its_place(config: dict[str, Any], why: str):
    with pytest.raises(BootstrapError) as refused:
        parse(bootstrap(certificate_providers={"one": {**WATCHER, "config": config}}), source="file")
    assert str(refused.value).startswith("file: `$.certificate_providers['one']`.config")
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "file is not JSON: "),
        (b"[]", "file: Expected `object`, got `array`"),
        (b"{}", "file: Object missing required field `xds_servers`"),
        (b'{"xds_servers": []}', "`$.xds_servers` is empty"),
        (
            bootstrap({"server_uri": 7, "channel_creds": []}),
            "Expected `str`, got `int` - at `$.xds_servers[0].server_uri`",
        ),
        (bootstrap({**INSECURE, "server_uri": ""}), "`$.xds_servers[0]`.server_uri is empty"),
        (bootstrap(INSECURE, {**INSECURE, "channel_creds": []}), "`$.xds_servers[1]`.channel_creds: none of them"),
        (bootstrap({**INSECURE, "channel_creds": [{"type": "alts"}]}), "('alts')"),
        (bootstrap(node={"metadata": []}), "Expected `object`, got `array` - at `$.node.metadata`"),
        (bootstrap(client_default_listener_resource_name_template=""), "template` is empty"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(content: bytes, why: str):
    with pytest.raises(BootstrapError) as refused:
        parse(content, source="file")
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"ca_certificate_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem cannot be read: No such file"),
        ({"certificate_file": "/nowhere/c.pem"}, "certificate_file and private_key_file go together"),
        ({"ca_certificate_file": 7}, "`$.xds_servers[0]`.channel_creds[0].config: Expected `str`, got `int`"),
    ],
)
def test_credentials_that_cannot_be_had_are_refused_with_their_place(config: dict[str, Any], why: str):
    with pytest.raises(BootstrapError) as refused:
        parse(bootstrap({**INSECURE, "channel_creds": [{"type": "tls", "config": config}]}), source="file")
    assert why in str(refused.value)


def test_the_file_that_the_environment_names_comes_before_the_content(tmp_path: Path):
    path = tmp_path / "bootstrap.json"
    path.write_bytes(bootstrap(node={"id": "of-file"}))
    content = bootstrap(node={"id": "of-content"}).decode()
    both = {"GRPC_XDS_BOOTSTRAP": str(path), "GRPC_XDS_BOOTSTRAP_CONFIG": content}
    assert from_environment({}) is None
    found, other = from_environment(both), from_environment({"GRPC_XDS_BOOTSTRAP_CONFIG": content})
    assert found is not None
    assert other is not None
    assert (found.node.id, other.node.id) == ("of-file", "of-content")
    with pytest.raises(BootstrapError, match="GRPC_XDS_BOOTSTRAP: /nowhere cannot be read"):
        from_environment({"GRPC_XDS_BOOTSTRAP": "/nowhere"})


def test_the_bootstrap_that_we_write_for_grpc_is_understood_too(tmp_path: Path):
    written = grpc_bootstrap.bootstrap(
        node_id="me", cluster="shop", zone="a", server="unix:/run/masche.sock", certificates=tmp_path
    )
    found = parse(written, source="ours")
    assert [plane.name for plane in found.planes] == ["unix:/run/masche.sock"]
    assert (found.node.id, found.node.zone, found.template) == ("me", "a", "%s")


async def test_a_client_of_a_bootstrap_asks_the_control_plane_that_it_names(tmp_path: Path):
    plane = Plane()
    plane.want("me", Wanted.of([framing.blob(CLUSTER, "a", framing.text(1, "a"))]))
    async with serving(tmp_path / "xds.sock", plane) as served:
        found = parse(bootstrap({**INSECURE, "server_uri": served.target}, node={"id": "me"}), source="file")
        await asks(found)


async def asks(found: Bootstrap) -> None:
    """A client of this bootstrap gets the cluster ``a``."""
    node = encode_node(found.node)
    client = XdsClient(found.planes, node=lambda: node, decoders={CLUSTER: lambda name, _: name}, rng=Random(7))
    watch = client.watch(CLUSTER, "a")
    task = asyncio.create_task(client.run())
    try:
        async with asyncio.timeout(10):
            while watch.resource.value != "a":
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_mutual_tls_is_spoken_with_the_certificates_that_the_files_hold_at_that_moment(tmp_path: Path):
    authority, port = Authority(), free_port()
    plane = Plane()
    plane.want("me", Wanted.of([framing.blob(CLUSTER, "a", framing.text(1, "a"))]))
    server = grpc.aio.server(options=transport.server(max_receive_bytes=1 << 20))
    server.add_generic_rpc_handlers((handlers(plane),))
    shown = authority.issue(CONTROL)
    server.add_secure_port(f"localhost:{port}", mutual_server_credentials(lambda: shown))
    await server.start()
    files = {name: str(tmp_path / name) for name in ("ca_certificate_file", "certificate_file", "private_key_file")}

    def write(machine: str) -> None:
        mine = authority.issue(machine)
        Path(files["ca_certificate_file"]).write_text(mine.roots)
        Path(files["certificate_file"]).write_text(mine.chain)
        Path(files["private_key_file"]).write_bytes(mine.key.reveal())

    write(MACHINE)
    config = {"server_uri": f"localhost:{port}", "channel_creds": [{"type": "tls", "config": files}]}
    found = parse(bootstrap(config, node={"id": "me"}), source="file")
    try:
        for machine in (MACHINE, f"{MACHINE}-renewed"):
            write(machine)
            await asks(found)
        assert [str(seat.peer.spiffe_id) for seat in plane.seats] == [MACHINE, f"{MACHINE}-renewed"]
    finally:
        await server.stop(0)
