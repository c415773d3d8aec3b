"""Calls in a mesh of another's making: by its names, to its instances, as it says, with the certificates of files."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from library.answering import Answering, who
from library.issuing import Issuing
from library.knowledge.foreign_plane import ForeignPlane, serving
from library.knowledge.foreign_resources import TLS, eds, encoded, endpoints, listener, table
from masche.identity import keys
from masche.library.core.ports import MeshError
from masche.library.foreign import Foreign, connect
from masche.library.httpx import AsyncTransport
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER


class Abroad:
    """A foreign control plane, an authority, and the bootstrap that names both."""

    def __init__(self, folder: Path, target: str, plane: ForeignPlane) -> None:
        self.folder, self.target, self.plane = folder, target, plane
        self.issuing = Issuing(folder)
        self.files = {
            "certificate_file": str(folder / "chain.pem"),
            "private_key_file": str(folder / "key.pem"),
            "ca_certificate_file": str(folder / "roots.pem"),
            "refresh_interval": "0.05s",
        }
        self.write("web")

    def write(self, workload: str) -> None:
        chain, key = self.issuing.pair(workload)
        (self.folder / "chain.pem").write_text(chain)
        (self.folder / "key.pem").write_bytes(keys.private_pem(key).reveal())
        (self.folder / "roots.pem").write_text(self.issuing.roots)

    def environment(self, **more: object) -> dict[str, str]:
        providers = {"default": {"plugin_name": "file_watcher", "config": self.files}}
        servers = [{"server_uri": self.target, "channel_creds": [{"type": "insecure"}]}]
        content = {"xds_servers": servers, "node": {"id": "web-1"}, "certificate_providers": providers, **more}
        return {"GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(content)}

    def serve(self, authority: str, port: int, *, identity: str = "") -> None:
        """Tell of one service with one instance; with an ``identity``: over mutual TLS to whoever has it."""
        instance = {"instance_name": "default"}
        matcher = {"san_type": "URI", "matcher": {"exact": identity}}
        context = {
            "tls_certificate_provider_instance": instance,
            "validation_context": {
                "ca_certificate_provider_instance": instance,
                "match_typed_subject_alt_names": [matcher],
            },
        }
        config = {"@type": TLS, "common_tls_context": context}
        socket = {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": config}}
        told = encoded(CLUSTER, eds(f"to-{authority}", **(socket if identity else {})))
        inline = {"route_config": table("inline", authority, **{f"to-{authority}": 1})}
        self.plane.put(LISTENER, authority, listener(authority, **inline))
        self.plane.put(CLUSTER, f"to-{authority}", told)
        self.plane.put(ENDPOINTS, f"to-{authority}", endpoints(f"to-{authority}", port))
        self.plane.push()


@pytest.fixture
async def abroad(tmp_path: Path) -> AsyncIterator[Abroad]:
    plane = ForeignPlane()
    async with serving(tmp_path / "xds.sock", plane) as target:
        yield Abroad(tmp_path, target, plane)


@contextmanager
def answering(abroad: Abroad, name: str, *, tls: bool = True) -> Iterator[Answering]:
    context = abroad.issuing.certificates(name).server_context() if tls else None
    server = Answering(context, who(name))
    try:
        yield server
    finally:
        server.close()


async def closed(mesh: Foreign) -> None:
    await asyncio.to_thread(mesh.close)
    assert not mesh._thread.is_alive()


async def test_a_service_is_called_by_its_name_over_mutual_tls(abroad: Abroad):
    mesh = connect(abroad.environment())
    try:
        with answering(abroad, "orders") as server:
            abroad.serve("orders", server.port, identity=abroad.issuing.name("orders"))
            async with httpx.AsyncClient(transport=AsyncTransport(facade=mesh.facade)) as client:
                answer = await client.get("http://orders/")
            assert (answer.status_code, answer.text) == (200, "orders")
            assert server.peers == [abroad.issuing.name("web")]
    finally:
        await closed(mesh)


async def test_who_is_not_whom_the_control_plane_named_is_sent_nothing(abroad: Abroad):
    mesh = connect(abroad.environment())
    try:
        with answering(abroad, "mallory") as server:
            abroad.serve("orders", server.port, identity=abroad.issuing.name("orders"))
            async with httpx.AsyncClient(transport=AsyncTransport(facade=mesh.facade)) as client:
                with pytest.raises(httpx.ConnectError, match=r"expected .*/sa/orders; .*/sa/mallory answered"):
                    await client.get("http://orders/")
            assert server.received == []
    finally:
        await closed(mesh)


async def test_plaintext_is_spoken_only_where_the_control_plane_says_so(abroad: Abroad):
    mesh = connect(abroad.environment())
    try:
        with answering(abroad, "legacy", tls=False) as server:
            abroad.serve("legacy", server.port)
            async with httpx.AsyncClient(transport=AsyncTransport(facade=mesh.facade)) as client:
                assert (await client.get("http://legacy/")).text == "legacy"
    finally:
        await closed(mesh)


async def test_a_certificate_that_is_renewed_in_its_file_is_shown_from_then_on(abroad: Abroad):
    mesh = connect(abroad.environment())
    try:
        assert mesh.facade.identity.spiffe_id == abroad.issuing.name("web")
        (abroad.folder / "chain.pem").write_text("half a file")
        await asyncio.sleep(0.12)
        assert mesh.facade.identity.spiffe_id == abroad.issuing.name("web"), "what cannot be used changes nothing"
        abroad.write("other")
        async with asyncio.timeout(10):
            while mesh.facade.identity.spiffe_id != abroad.issuing.name("other"):
                await asyncio.sleep(0.01)
    finally:
        await closed(mesh)


async def test_a_name_that_the_control_plane_does_not_have_is_an_error_that_says_so(abroad: Abroad):
    abroad.serve("known", 9)
    mesh = connect(abroad.environment())
    try:
        async with httpx.AsyncClient(transport=AsyncTransport(facade=mesh.facade)) as client:
            with pytest.raises(httpx.HTTPError, match="the control plane has no Listener nobody"):
                await client.get("http://nobody/")
    finally:
        await closed(mesh)


def test_without_a_bootstrap_it_is_said_what_to_set():
    with pytest.raises(MeshError, match="neither GRPC_XDS_BOOTSTRAP nor GRPC_XDS_BOOTSTRAP_CONFIG names a bootstrap"):
        connect({})


def test_a_bootstrap_or_a_certificate_that_cannot_be_used_is_said_at_once(tmp_path: Path):
    with pytest.raises(MeshError, match="GRPC_XDS_BOOTSTRAP_CONFIG is not JSON"):
        connect({"GRPC_XDS_BOOTSTRAP_CONFIG": "{"})
    missing = dict.fromkeys(("certificate_file", "private_key_file", "ca_certificate_file"), str(tmp_path / "none.pem"))
    providers = {"default": {"plugin_name": "file_watcher", "config": missing}}
    servers = [{"server_uri": "unix:/nowhere", "channel_creds": [{"type": "insecure"}]}]
    content = json.dumps({"xds_servers": servers, "certificate_providers": providers})
    with pytest.raises(MeshError, match=r"none\.pem cannot be read: No such file"):
        connect({"GRPC_XDS_BOOTSTRAP_CONFIG": content})


async def test_closing_ends_who_waits_and_closing_again_does_nothing(abroad: Abroad):
    with connect(abroad.environment()) as mesh:
        future = mesh.facade.knowledge.want("slow.example")
    with pytest.raises(MeshError):
        future.result(timeout=1)
    await closed(mesh)
