"""Mutual TLS of the library: who is let in, whatever carries the connection, and what changes when it rotates."""

import asyncio
import contextlib
import copy
import pickle
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohttp
import httpcore
import pytest
import urllib3
import uvloop
from cryptography import x509

from library.answering import answering
from library.issuing import Issuing, bare_client, bare_server
from masche.identity import keys, secret_file
from masche.identity.secret_file import as_file
from masche.library.core.ports import HTTP_2, Identity, MeshError, NotReadyError
from masche.library.core.tls import Certificates, peer_id

REQUEST = b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Issuing:
    return Issuing(tmp_path_factory.mktemp("authority") / "a")


@pytest.fixture(scope="module")
def ours(mesh: Issuing) -> Certificates:
    return mesh.certificates("web")


def blocking(context: ssl.SSLContext, port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as encrypted:
        encrypted.sendall(REQUEST)
        return encrypted.recv(4096)


async def _streams(context: ssl.SSLContext, port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="orders")
    try:
        writer.write(REQUEST)
        return await reader.read(4096)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def on_asyncio(context: ssl.SSLContext, port: int) -> bytes:
    return asyncio.run(_streams(context, port))


def on_uvloop(context: ssl.SSLContext, port: int) -> bytes:
    return uvloop.run(_streams(context, port))


def by_urllib3(context: ssl.SSLContext, port: int) -> bytes:
    with urllib3.HTTPSConnectionPool("127.0.0.1", port, ssl_context=context, assert_hostname=False) as pool:
        try:
            return pool.request("GET", "/", retries=False).data
        except urllib3.exceptions.SSLError as error:
            raise ssl.SSLError(1, str(error)) from error


def by_httpcore(context: ssl.SSLContext, port: int) -> bytes:
    with httpcore.ConnectionPool(ssl_context=context) as pool:
        try:
            return pool.request("GET", f"https://127.0.0.1:{port}/").content
        except httpcore.ConnectError as error:
            raise ssl.SSLError(1, str(error)) from error


def by_httpcore_on_asyncio(context: ssl.SSLContext, port: int) -> bytes:
    async def call() -> bytes:
        async with httpcore.AsyncConnectionPool(ssl_context=context) as pool:
            return (await pool.request("GET", f"https://127.0.0.1:{port}/")).content

    try:
        return asyncio.run(call())
    except httpcore.ConnectError as error:
        raise ssl.SSLError(1, str(error)) from error


def by_aiohttp(context: ssl.SSLContext, port: int) -> bytes:
    async def call() -> bytes:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://127.0.0.1:{port}/", ssl=context) as answer,
        ):
            return await answer.read()

    try:
        return asyncio.run(call())
    except aiohttp.ClientConnectorCertificateError as error:
        raise ssl.SSLError(1, str(error)) from error


Carrier = Callable[[ssl.SSLContext, int], bytes]
CARRIERS: list[Carrier] = [
    blocking, on_asyncio, on_uvloop, by_urllib3, by_httpcore, by_httpcore_on_asyncio, by_aiohttp,
]  # fmt: skip
every_carrier = pytest.mark.parametrize("call", CARRIERS, ids=lambda call: call.__name__)


@every_carrier
def test_a_peer_that_was_expected_is_called(mesh: Issuing, ours: Certificates, call: Carrier) -> None:
    with answering(mesh.certificates("orders").server_context(), "orders") as server:
        assert b"orders" in call(ours.client_context((mesh.name("carts"), mesh.name("orders"))), server.port)
        assert server.peers == [mesh.name("web")]


@every_carrier
def test_another_workload_of_the_mesh_is_refused_before_a_byte_of_the_request(
    mesh: Issuing, ours: Certificates, call: Carrier
) -> None:
    with answering(mesh.certificates("thief").server_context()) as server:
        wanted = ours.client_context((mesh.name("orders"),))
        with pytest.raises(ssl.SSLError, match=f"expected {mesh.name('orders')}; {mesh.name('thief')} answered"):
            call(wanted, server.port)
    assert server.received == []


ORDERS = x509.UniformResourceIdentifier("spiffe://mesh.local/ns/shop/sa/orders")
ODD: dict[str, tuple[tuple[x509.GeneralName, ...], str]] = {
    "only a DNS name": ((x509.DNSName("orders.shop.mesh"),), "exactly one readable URI"),
    "two URIs": ((ORDERS, x509.UniformResourceIdentifier("spiffe://mesh.local/ns/shop/sa/x")), "exactly one"),
    "a trailing slash": ((x509.UniformResourceIdentifier(f"{ORDERS.value}/"),), "ends with a slash"),
    "upper case": ((x509.UniformResourceIdentifier("SPIFFE://mesh.local/ns/shop/sa/orders"),), "does not start with"),
    "percent-encoded": ((x509.UniformResourceIdentifier("spiffe://mesh.local/ns/shop/sa/%6frders"),), "has '%'"),
    "a query": ((x509.UniformResourceIdentifier(f"{ORDERS.value}?a=b"),), "has '='"),
    "a port": ((x509.UniformResourceIdentifier("spiffe://mesh.local:443/ns/shop/sa/orders"),), "has ':'"),
    "no workload": ((x509.UniformResourceIdentifier("spiffe://mesh.local"),), "no workload"),
    "another trust domain": (
        (x509.UniformResourceIdentifier("spiffe://evil.local/ns/shop/sa/orders"),),
        "spiffe://evil.local/ns/shop/sa/orders answered, and only the trust domain mesh.local is trusted",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_certificate_that_is_not_exactly_what_was_expected_is_refused_with_a_sentence(
    mesh: Issuing, ours: Certificates, name: str
) -> None:
    names, why = ODD[name]
    with answering(mesh.odd(*names)) as server:
        both = (ORDERS.value, "spiffe://evil.local/ns/shop/sa/orders")
        with pytest.raises(ssl.SSLCertVerificationError, match=f"expected .*{ORDERS.value}; .*{why}") as refused:
            blocking(ours.client_context(both), server.port)
    assert refused.value.reason == "CERTIFICATE_VERIFY_FAILED"
    assert server.received == []


def test_a_dns_name_beside_the_one_uri_does_not_matter(mesh: Issuing, ours: Certificates) -> None:
    """X509-SVID, 2: "An X.509 SVID MAY contain any number of other SAN field types, including DNS SANs"."""
    with answering(mesh.odd(ORDERS, x509.DNSName("orders.shop.svc")), "orders") as server:
        assert b"orders" in blocking(ours.client_context((ORDERS.value,)), server.port)


def test_the_same_name_under_another_root_is_refused(mesh: Issuing, ours: Certificates, tmp_path: Path) -> None:
    other = Issuing(tmp_path / "other")
    with (
        answering(bare_server(*other.pair("orders"), other.roots)) as server,
        pytest.raises(ssl.SSLCertVerificationError, match="verify failed"),
    ):
        blocking(ours.client_context((ORDERS.value,)), server.port)
    assert server.received == []


def test_our_own_port_takes_nobody_without_a_certificate_of_the_mesh(mesh: Issuing) -> None:
    stranger = bare_client(mesh.roots)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        connected(stranger, mesh.certificates("orders").server_context())


def test_a_caller_of_another_trust_domain_is_refused_even_if_our_authority_signed_it(mesh: Issuing) -> None:
    stranger = bare_client(mesh.roots, *mesh.odd_pair(x509.UniformResourceIdentifier("spiffe://evil.local/ns/a/sa/b")))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"evil.local/ns/a/sa/b answered, and only .* mesh.local is"):
        connected(stranger, mesh.certificates("orders").server_context())


def shake(client: ssl.SSLObject, server: ssl.SSLObject) -> None:
    """Bring both ends through a handshake over memory."""
    pending = [client, server]
    for _ in range(10):
        for each in tuple(pending):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
                pending.remove(each)
    assert not pending


def connected(client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
    """The client's end of a connection over memory, after the server said something (with it come tickets)."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up, session=session), server.wrap_bio(up, down, server_side=True)
    shake(*ends)
    ends[1].write(b"hello")
    assert ends[0].read() == b"hello"
    return ends[0]


def test_both_ends_speak_tls_1_3_and_http_1_unless_more_is_asked(mesh: Issuing, ours: Certificates) -> None:
    server = mesh.certificates("orders")
    names = (ORDERS.value,)
    plain = connected(ours.client_context(names), server.server_context(HTTP_2))
    assert (plain.version(), plain.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    more = connected(ours.client_context(names, HTTP_2), server.server_context(HTTP_2))
    assert more.selected_alpn_protocol() == "h2"
    assert peer_id(more) == ORDERS.value
    assert peer_id(object()) == ""


def test_no_session_is_resumed(mesh: Issuing, ours: Certificates) -> None:
    """Who resumes is not asked again who it is: ours gives no tickets, and takes none of another server's."""
    bare = bare_server(*mesh.pair("orders"), mesh.roots)
    wanted = ours.client_context((ORDERS.value,))
    first = connected(wanted, bare)
    assert first.session is not None
    assert first.session.has_ticket
    for context in (wanted, ours.client_context((mesh.name("carts"),))):
        with pytest.raises(ssl.SSLError, match="resumes no session"):
            connected(context, bare, first.session)
    own = connected(wanted, mesh.certificates("orders").server_context())
    assert own.session is None or not own.session.has_ticket


def test_a_connection_that_was_told_of_nobody_refuses_everybody(mesh: Issuing, ours: Certificates) -> None:
    """What is behind a context has the certificate, and lets nobody in by itself."""
    behind = connected(ours.client_context((ORDERS.value,)), mesh.certificates("orders").server_context()).context
    with pytest.raises(ssl.SSLCertVerificationError, match=r"expected nobody; .*orders answered"):
        connected(behind, mesh.certificates("orders").server_context())
    with pytest.raises(ssl.SSLError, match="serves nobody"):
        ours.client_context((ORDERS.value,)).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)


def test_nobody_on_the_way_learns_which_service_is_called(mesh: Issuing, ours: Certificates) -> None:
    named: list[str | None] = []
    bare = bare_server(*mesh.pair("orders"), mesh.roots)
    bare.sni_callback = lambda _connection, name, _context: named.append(name)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.client_context((ORDERS.value,)).wrap_bio(down, up, server_hostname="orders.shop")
    shake(client, bare.wrap_bio(up, down, server_side=True))
    assert named == [None]


def test_contexts_are_kept_until_what_they_are_made_of_changes(mesh: Issuing) -> None:
    made = mesh.certificates("web")
    before = made.client_context((ORDERS.value,))
    assert made.client_context((ORDERS.value,)) is before
    assert made.client_context((mesh.name("carts"),)) is not before
    chain, key = mesh.pair("web")
    made.put(chain, keys.private_pem(key), mesh.roots)
    after = made.client_context((ORDERS.value,))
    assert after is not before
    made.put(chain, keys.private_pem(key), mesh.roots)
    assert made.client_context((ORDERS.value,)) is after


def test_a_server_that_keeps_its_context_shows_the_newest_certificate(mesh: Issuing, ours: Certificates) -> None:
    orders = mesh.certificates("orders")
    kept = orders.server_context()
    names = ours.client_context((ORDERS.value,))
    first = connected(names, kept).getpeercert(binary_form=True)
    mesh.renew(orders, "orders")
    second = connected(names, kept).getpeercert(binary_form=True)
    assert first != second


def test_a_server_that_keeps_its_context_trusts_the_newest_roots(
    mesh: Issuing, ours: Certificates, tmp_path: Path
) -> None:
    orders, other = mesh.certificates("orders"), Issuing(tmp_path / "other")
    kept = orders.server_context()
    chain, key = mesh.pair("orders")
    orders.put(chain, keys.private_pem(key), other.roots)
    with pytest.raises(ssl.SSLCertVerificationError):
        connected(ours.client_context((ORDERS.value,)), kept)


def test_what_cannot_be_used_changes_nothing(mesh: Issuing) -> None:
    made = mesh.certificates("web")
    before = made.client_context((ORDERS.value,))
    chain, key = mesh.pair("carts")
    _, another = mesh.pair("carts")
    for bad in (
        lambda: made.put(chain, keys.private_pem(another), mesh.roots),
        lambda: made.put("nonsense", keys.private_pem(key), mesh.roots),
        lambda: made.put(chain, keys.private_pem(key), "nonsense"),
        lambda: made.put(mesh.roots, keys.private_pem(key), mesh.roots),
    ):
        with pytest.raises(MeshError, match="cannot be used"):
            bad()
    assert made.client_context((ORDERS.value,)) is before
    assert made.spiffe_id == mesh.name("web")


def test_before_the_first_certificate_there_is_no_tls_to_be_had() -> None:
    nobody: Identity = Certificates()
    assert nobody.spiffe_id == ""
    with pytest.raises(NotReadyError, match="no certificate of the mesh yet"):
        nobody.client_context((ORDERS.value,))
    with pytest.raises(NotReadyError, match="no certificate of the mesh yet"):
        nobody.server_context()


def test_nobody_expected_is_not_anybody_accepted(ours: Certificates) -> None:
    with pytest.raises(MeshError, match="nobody is expected"):
        ours.client_context(())


WEAKENED: dict[str, Callable[[ssl.SSLContext], object]] = {
    "verification off": lambda context: setattr(context, "verify_mode", ssl.CERT_NONE),
    "optional": lambda context: setattr(context, "verify_mode", ssl.CERT_OPTIONAL),
    "more roots": lambda context: context.load_verify_locations(cadata="x"),
    "the system's roots": lambda context: context.load_default_certs(),
    "default paths": lambda context: context.set_default_verify_paths(),
    "another certificate": lambda context: context.load_cert_chain("x"),
    "another check": lambda context: setattr(context, "sslobject_class", ssl.SSLObject),
    "a key log": lambda context: setattr(context, "keylog_filename", "x"),
    "TLS 1.2": lambda context: setattr(context, "minimum_version", ssl.TLSVersion.TLSv1_2),
    "other ciphers": lambda context: context.set_ciphers("ALL"),
    "a word of its own": lambda context: setattr(context, "unheard_of", 1),
    "anybody behind it": lambda context: setattr(context, "shown", context),
    "anybody expected": lambda context: setattr(context, "expected", frozenset[str]()),
}


@pytest.mark.parametrize("name", WEAKENED)
def test_nobody_who_holds_a_context_can_weaken_it(ours: Certificates, name: str) -> None:
    context = ours.client_context((ORDERS.value,))
    with pytest.raises(ssl.SSLError, match="the TLS of the mesh"):
        WEAKENED[name](context)


def test_what_clients_ask_for_that_is_so_already_is_allowed(ours: Certificates) -> None:
    context = ours.client_context((ORDERS.value,))
    context.verify_mode, context.check_hostname = ssl.CERT_REQUIRED, False
    assert context.verify_flags & ssl.VERIFY_X509_STRICT


def test_what_expects_somebody_is_taken_for_a_context_and_cannot_become_one(ours: Certificates) -> None:
    """Clients verify nobody where they are handed what is no context; a copy would be a context that trusts nobody."""
    context = ours.client_context((ORDERS.value,))
    assert isinstance(context, ssl.SSLContext)
    for made in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="not copied"):
            made(context)


def test_what_one_connection_speaks_no_other_has_to(ours: Certificates, mesh: Issuing) -> None:
    context = ours.client_context((ORDERS.value,))
    context.set_alpn_protocols(["h2"])  # as httpcore does with every context
    server = mesh.certificates("orders").server_context(HTTP_2)
    assert connected(ours.client_context((ORDERS.value,)), server).selected_alpn_protocol() == "http/1.1"


def test_nothing_secret_shows(mesh: Issuing, ours: Certificates) -> None:
    context = ours.client_context((ORDERS.value,))
    shown = repr(ours) + repr(context) + repr(vars(context))
    assert "PRIVATE" not in shown
    assert repr(ours).startswith(f"<Certificates: {mesh.name('web')} until 2")
    assert repr(context) == f"<TLS with {ORDERS.value}>"
    with pytest.raises(TypeError):
        pickle.dumps(ours)


def test_a_key_is_a_file_in_memory_only_and_only_for_a_moment() -> None:
    with as_file(keys.Secret(b"secret")) as path:
        assert Path(path).read_bytes() == b"secret"
        assert str(Path(path).readlink()).startswith("/memfd:")
    assert not Path(path).exists()


def test_without_memory_files_it_is_a_private_file_that_is_gone_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(secret_file, "_in_memory", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with as_file(keys.Secret(b"secret")) as path:
        assert Path(path).parent == tmp_path
        assert Path(path).read_bytes() == b"secret"
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == []
