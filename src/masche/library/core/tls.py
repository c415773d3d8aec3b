"""Who we are and whom we expect, as TLS: contexts that check the SPIFFE ID of the other side inside the handshake.

``ssl`` verifies the chain under the roots of our trust domain; then, still inside ``do_handshake``, the peer's one URI
is compared with the identities that are expected, so that a wrong peer is refused before a byte of a request is sent,
whatever carries the connection: a blocking socket, asyncio, uvloop, or a client that wraps a memory buffer.
Invariants: a context belongs to one set of expected identities for ever, no TLS session is resumed, and nobody who is
handed a context (urllib3 sets it up anew for each connection) can make it trust more than it did.
"""

import socket
import ssl
import threading
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, NoReturn, Self, cast

from cryptography import x509

from masche.identity import svid
from masche.identity.keys import Secret
from masche.identity.malformed import MALFORMED
from masche.identity.presented import Presented
from masche.identity.secret_file import as_file
from masche.identity.svid import SvidError
from masche.library.core.ports import HTTP_1, MeshError, NotReadyError
from masche.library.core.ways_sync import Carried, carried


class Certificates:
    """Our certificate, its key and the roots we trust, as TLS contexts; an ``Identity`` of the call pipeline.

    ``put`` replaces all three at once: contexts that were handed out before keep serving the connections they made,
    and those of servers take the newest certificate for every connection that is accepted from then on.
    """

    def __init__(self) -> None:
        self._held: _Held | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<Certificates: none yet>" if self._held is None else repr(self._held)

    @property
    def spiffe_id(self) -> str:
        """Our own SPIFFE ID; empty before the first certificate came."""
        return "" if self._held is None else str(self._held.identity)

    @property
    def not_after(self) -> float:
        """When our certificate ends, seconds since the epoch; 0 before the first came."""
        return 0.0 if self._held is None else self._held.not_after

    def put(self, chain: str, key: Secret, roots: str) -> None:
        """Show this ``chain`` (PEM, leaf first) and trust these ``roots`` (PEM) from now on.

        Raises MeshError when they cannot be used; then everything is as it was.
        """
        held = _Held(chain, key, roots, self)
        if self._held is not None and self._held.is_same(held):
            return
        held.server(HTTP_1)  # a key that does not belong to the chain is found out here
        self._held = held

    def withdraw(self) -> None:
        """Show nothing any more: the certificate has ended and there is no other."""
        self._held = None

    def begin_afresh(self) -> None:
        """Show nothing that a parent showed, in its child; whatever its other threads were doing here."""
        self._held, self._lock = None, threading.Lock()

    def client_context(self, identities: tuple[str, ...], alpn: tuple[str, ...] = HTTP_1) -> ssl.SSLContext:
        """Return the TLS of a connection to one of ``identities``: the same object until ``put`` changed something.

        Raises NotReadyError before the first certificate came, and MeshError when nobody is expected.
        """
        held = self._now()
        found = held.clients.get((identities, alpn))
        if found is None:
            with self._lock:
                found = held.client(identities, alpn)
        return cast("ssl.SSLContext", found)

    def server_context(self, alpn: tuple[str, ...] = HTTP_1) -> ssl.SSLContext:
        """Return the TLS of our own port, which only a workload of our trust domain can connect to.

        It may be kept: each new connection takes the certificate and the roots of its time. Raises NotReadyError.
        """
        held = self._now()
        with self._lock:
            return held.server(alpn)

    def presented(self) -> Presented:
        """Return what we show and whom we trust now, for what does its own TLS (gRPC). Raises NotReadyError."""
        return self._now().presented()

    def _now(self) -> "_Held":
        if self._held is None:
            raise NotReadyError("this process has no certificate of the mesh yet")
        return self._held


class Context(ssl.SSLContext):
    """TLS of the mesh: once sealed it trusts nobody else and shows nobody else, whatever is asked of it."""

    is_sealed = False

    def seal(self) -> Self:
        """Refuse every change from now on; asking for what is so already stays allowed, as clients do it."""
        self.sslobject_class, self.sslsocket_class = _Buffered, _Socket
        self.minimum_version = self.maximum_version = ssl.TLSVersion.TLSv1_3
        self.check_hostname = False  # names of hosts say nothing here: the SPIFFE ID does, in ``_judge``
        self.verify_mode = ssl.CERT_REQUIRED
        self.verify_flags |= ssl.VERIFY_X509_STRICT  # the same on every Python; 3.13 begins to do it by itself
        self.is_sealed = True
        return self

    def __setattr__(self, name: str, value: object) -> None:
        if self.is_sealed and getattr(self, name, value) != value:
            raise _sealed(f"does not change its {name}")
        super().__setattr__(name, value)

    def load_verify_locations(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse more roots once sealed: a public authority could name anybody."""
        if self.is_sealed:
            raise _sealed("takes no other roots")
        super().load_verify_locations(*_args, **_kwargs)

    def load_default_certs(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        """Refuse the roots of the system."""
        raise _sealed(f"takes no other roots ({purpose.name})")

    def set_default_verify_paths(self) -> None:
        """Refuse the roots of the system."""
        raise _sealed("takes no other roots")

    def load_cert_chain(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse another certificate once sealed: we are one workload."""
        if self.is_sealed:
            raise _sealed("shows no other certificate")
        super().load_cert_chain(*_args, **_kwargs)


_HARMLESS = frozenset({
    "cert_store_stats", "get_ca_certs", "get_ciphers", "load_cert_chain", "load_default_certs", "load_verify_locations",
    "session_stats", "set_default_verify_paths",
})  # fmt: skip
"""Methods of a context that tell, or that one which is sealed refuses by itself."""
_UNSAID = object()


class _Shown(Context):
    """Has our certificate and the roots. Its connections refuse everybody until they are told who is expected."""

    trust_domain: str
    alpn: tuple[str, ...]
    takes_anybody = False

    @classmethod
    def of(cls, held: "_Held", protocol: int, alpn: tuple[str, ...]) -> Self:
        """Return a context that is still to be sealed."""
        context = cls(protocol)
        context.trust_domain, context.alpn = held.identity.trust_domain, alpn
        if alpn:
            context.set_alpn_protocols(alpn)
        held.load(context)
        return context

    def __repr__(self) -> str:
        return f"<TLS with anybody of {self.trust_domain}>" if self.takes_anybody else "<TLS with nobody yet>"


class _Expecting:
    """Makes connections of ``shown`` that expect certain identities. It is taken for a ``Context``, as ``shown`` is,
    but has nothing of OpenSSL: that would be 10 kB for each service that is called.

    No server is named (SNI): nobody on the way learns which service is called.
    """

    __slots__ = ("expected", "shown")

    def __init__(self, shown: _Shown, identities: tuple[str, ...]) -> None:
        object.__setattr__(self, "shown", shown)
        object.__setattr__(self, "expected", frozenset(identities))

    shown: _Shown
    expected: frozenset[str]

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride] # nobody sets it
        """What ``isinstance`` says: clients take an object that is no context for the wish to verify nobody."""
        return Context

    def __repr__(self) -> str:
        return f"<TLS with {_listed(self.expected)}>"

    def __getattr__(self, name: str) -> Any:
        """What the context behind it is; what would change it is refused, there or here."""
        found = getattr(self.shown, name)
        if callable(found) and name not in _HARMLESS:
            raise _sealed(f"does no {name}")
        return found

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__slots__ or getattr(self.shown, name, _UNSAID) != value:
            raise _sealed(f"does not change its {name}")

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a context is not copied")  # it would become a context of the class that it is taken for

    def set_alpn_protocols(self, _protocols: object) -> None:
        """Change nothing: what is spoken was said when the context was asked for. httpcore says it all the same."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,  # noqa: ARG002 # see above
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection over memory."""
        _check_use(server_side, session)
        made = self.shown.wrap_bio(incoming, outgoing)
        cast("_Buffered", made).expected = self.expected
        return made

    def wrap_socket(  # noqa: PLR0917 # as ssl spells it
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,  # noqa: ARG002 # see above
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Begin a connection over a socket that is connected; the handshake is over when this returns, if asked for.

        Within a connection that is TLS already (the tunnel of a detour) it is TLS over memory.
        """
        _check_use(server_side, session)
        if isinstance(sock, ssl.SSLSocket):
            made = cast("ssl.SSLSocket", carried(sock, cast("ssl.SSLContext", self)))
        else:
            made = self.shown.wrap_socket(
                sock, do_handshake_on_connect=False, suppress_ragged_eofs=suppress_ragged_eofs
            )
            cast("_Socket", made).expected = self.expected
        if do_handshake_on_connect:
            try:
                made.do_handshake(block=True)
            except BaseException:
                made.close()
                raise
        return made


def _check_use(server_side: bool, session: object) -> None:
    if server_side:
        raise _sealed("of a caller serves nobody")
    if session is not None:
        raise _sealed("resumes no session: each connection is verified anew")


class _Held:
    """One certificate with its key, the roots of its time, and the contexts made of them."""

    def __init__(self, chain: str, key: Secret, roots: str, owner: Certificates) -> None:
        self._chain, self._key, self._roots, self._owner = chain, key, roots, owner
        self.clients: dict[tuple[tuple[str, ...], tuple[str, ...]], _Expecting] = {}
        self._shown: dict[tuple[str, ...], _Shown] = {}
        self._servers: dict[tuple[str, ...], _Shown] = {}
        try:
            leaf = x509.load_pem_x509_certificate(chain.encode())
            self.identity = svid.identity(leaf)
        except (SvidError, *MALFORMED) as error:
            raise MeshError(f"our own certificate cannot be used: {error}") from error
        self.not_after = leaf.not_valid_after_utc.timestamp()

    def __repr__(self) -> str:
        until = datetime.fromtimestamp(self.not_after, UTC).isoformat(timespec="seconds")
        return f"<Certificates: {self.identity} until {until}, {len(self.clients)} sets of identities expected>"

    def presented(self) -> Presented:
        """What it was made of."""
        return Presented(chain=self._chain, key=self._key, roots=self._roots)

    def is_same(self, other: "_Held") -> bool:
        return (self._chain, self._key, self._roots) == (other._chain, other._key, other._roots)

    def client(self, identities: tuple[str, ...], alpn: tuple[str, ...]) -> _Expecting:
        """The context for ``identities``, made if need be; under the owner's lock."""
        if not identities:
            raise MeshError("nobody is expected at the other side: the control plane names no identity")
        found = self.clients.get((identities, alpn))
        if found is None:
            if alpn not in self._shown:
                self._shown[alpn] = _Shown.of(self, ssl.PROTOCOL_TLS_CLIENT, alpn).seal()
            found = self.clients[identities, alpn] = _Expecting(self._shown[alpn], identities)
        return found

    def server(self, alpn: tuple[str, ...]) -> _Shown:
        """The context of our own port, made if need be; under the owner's lock."""
        found = self._servers.get(alpn)
        if found is None:
            made = _Shown.of(self, ssl.PROTOCOL_TLS_SERVER, alpn)
            made.takes_anybody = True
            made.num_tickets = 0  # who resumes a session is not asked again whether its roots are still trusted
            made.sni_callback = partial(_newest, self._owner)
            found = self._servers[alpn] = made.seal()
        return found

    def load(self, context: ssl.SSLContext) -> None:
        """Put certificate, key and roots into a context. Raises MeshError when OpenSSL cannot use them."""
        try:
            with as_file(self._both) as path:
                context.load_cert_chain(path)
            context.load_verify_locations(cadata=self._roots)
        except OSError as error:  # ssl.SSLError is one
            raise MeshError(f"certificate, key and roots cannot be used together: {error}") from error

    @cached_property
    def _both(self) -> Secret:
        return Secret(self._key.reveal() + b"\n" + self._chain.encode())


def _newest(owner: Certificates, connection: Any, _name: str | None, context: ssl.SSLContext) -> None:
    """Called by OpenSSL for each connection that is accepted, also where the caller names no server."""
    assert isinstance(context, _Shown)
    newest = owner.server_context(context.alpn)
    if newest is not context:
        connection.context = newest


class _Buffered(ssl.SSLObject):
    """TLS over memory: asyncio, uvloop, anyio."""

    expected: frozenset[str] = frozenset()
    peer_id = ""

    def do_handshake(self) -> None:
        super().do_handshake()
        self.peer_id = _judge(self, self.expected)


class _Socket(ssl.SSLSocket):
    """TLS over a blocking socket: http.client, urllib3, httpcore's threads."""

    expected: frozenset[str] = frozenset()
    peer_id = ""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        self.peer_id = _judge(self, self.expected)


def peer_id(connection: object) -> str:
    """The SPIFFE ID of the other side of a connection that one of our contexts made; empty for any other object."""
    found = connection.inner if isinstance(connection, Carried) else connection
    return found.peer_id if isinstance(found, _Buffered | _Socket) else ""


def _judge(connection: ssl.SSLObject | ssl.SSLSocket, expected: frozenset[str]) -> str:
    """Return who the peer is. Raises ssl.SSLCertVerificationError with a sentence when it is not who was expected."""
    context = connection.context
    assert isinstance(context, _Shown)
    wanted = f"a workload of {context.trust_domain}" if context.takes_anybody else _listed(expected) or "nobody"
    shown = connection.getpeercert(binary_form=True)
    if shown is None:
        raise _refused(wanted, "it showed no certificate")
    try:
        found = svid.identity(x509.load_der_x509_certificate(shown))
    except (SvidError, *MALFORMED) as error:
        raise _refused(wanted, f"it showed {_names(connection)}: {error}") from error
    if found.trust_domain != context.trust_domain:
        raise _refused(wanted, f"{found} answered, and only the trust domain {context.trust_domain} is trusted")
    if str(found) not in expected and not context.takes_anybody:
        raise _refused(wanted, f"{found} answered")
    return str(found)


def _names(connection: ssl.SSLObject | ssl.SSLSocket) -> str:
    """The names in the peer's certificate, for people."""
    said = connection.getpeercert() or {}
    names = cast("tuple[tuple[str, str], ...]", said.get("subjectAltName", ()))
    return ", ".join(f"{kind} {name!r}" for kind, name in names)[:500] or "no name"


def _refused(wanted: str, what_came: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"expected {wanted}; {what_came}")
    error.library, error.reason = "SSL", "CERTIFICATE_VERIFY_FAILED"
    error.verify_code, error.verify_message = 50, str(error.strerror)  # X509_V_ERR_APPLICATION_VERIFICATION
    return error


def _sealed(sentence: str) -> ssl.SSLError:
    return ssl.SSLError(1, f"the TLS of the mesh {sentence}")


def _listed(expected: frozenset[str]) -> str:
    return " or ".join(sorted(expected))
