"""gunicorn in the mesh: ``gunicorn -k masche.library.gunicorn.Worker --threads 8 app:app``, with MASCHE_SERVICE set.

A threaded worker whose connections begin with mutual TLS, or plaintext, or either, as the mesh says when they come, and
whose application is behind the mesh's door. One worker: each process of the library is a workload of its own, and
workers of one gunicorn share their port. It leaves in order: callers are told before the worker stops. Invariant: no
thread waits for a caller who has not proved who it is.
"""

import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, cast

from gunicorn.workers.gthread import TConn, ThreadWorker

from masche.library import resident as residents
from masche.library.asgi import door
from masche.library.core.ports import Identity, MeshError
from masche.library.inbound.door import Door
from masche.library.inbound.introduced import last_until
from masche.library.inbound.listen import HANDSHAKE, HANDSHAKE_TIMEOUT
from masche.library.life.residence import Resident
from masche.library.wsgi import Guarded
from masche.model.port import Port
from masche.model.view import MtlsMode

residents.load()  # by gunicorn's master, whose workers share what is loaded before they are forked

ENTRANCES: Final = 2
"""Threads for handshakes. Each takes one as far as it has come and never waits, so that a few are enough for all."""

LINGER: Final = 2.0
"""Seconds that callers who are just coming in have left when the worker stops; gunicorn's own for idle connections."""

LOOK: Final = 0.5
"""Seconds between two looks for callers whose handshake takes too long."""

IDLE_TIMEOUT: Final = 310
"""Seconds; longer than callers of the mesh keep an idle connection, so that none is closed as it is used."""

BOOT_ERROR: Final = 3
"""gunicorn's word for a worker that cannot start: it ends and does not start it again and again."""


class Connection(TConn):
    """A connection that becomes what the mesh says before its first request is read."""

    def __init__(self, guard: Door, identity: Identity, *about: Any) -> None:
        super().__init__(*about)
        self._guard = guard
        self._identity = identity
        self._began = time.monotonic()
        self._is_shaking = False
        self.is_open = False
        self.last_until = last_until()

    def open(self) -> None:
        """Take the handshake as far as it has come. Raises OSError and MeshError."""
        if not self._is_shaking:
            if not self._is_tls():
                self.is_open = True
                return
            tls = self._identity.server_context()
            self.sock: Any = tls.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            self._is_shaking, self._began = True, time.monotonic()
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.is_open = True

    def is_late(self, now: float) -> bool:
        """Whether its handshake takes too long: under STRICT from the first moment on, else from its first byte."""
        if self.is_open or not (self._is_shaking or self._guard.mode() is MtlsMode.STRICT):
            return False
        return now - self._began > HANDSHAKE_TIMEOUT

    def _is_tls(self) -> bool:
        mode = self._guard.mode()
        if mode is MtlsMode.STRICT or mode is MtlsMode.DISABLE:
            return mode is MtlsMode.STRICT
        return self.sock.recv(1, socket.MSG_PEEK) == bytes([HANDSHAKE])


class Worker(ThreadWorker):
    """gunicorn's threaded worker in the mesh."""

    resident: Resident
    guard: Door
    _looked = 0.0

    def init_process(self) -> None:
        """Start, with threads for handshakes beside those for requests."""
        self._entrances = ThreadPoolExecutor(ENTRANCES, "masche-entrance")
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application and put the mesh in front of it."""
        if self.cfg.workers != 1 or self.cfg.is_ssl:
            why = "takes one worker (and --threads), and no certificate of gunicorn's own"
            self.log.error("masche.library.gunicorn.Worker %s", why)
            sys.exit(BOOT_ERROR)
        self.cfg.set("keepalive", max(self.cfg.keepalive, IDLE_TIMEOUT))
        super().load_wsgi()
        at = Port(port=self.sockets[0].getsockname()[1])
        self.resident = residents.resident()
        self.guard = door(self.resident, at, joins_headers=True)
        self.wsgi: Any = Guarded(self.wsgi, self.guard, self.resident.facade.identity)
        self.resident.serve(at, probe=self._probe)

    async def _probe(self) -> str:
        """Fit to be called: certified, and told who may come in."""
        identity, reception = self.resident.facade.identity, self.resident.reception
        if not identity.spiffe_id or reception.inbound(self.guard.port) is None:
            return f"waiting for {reception.waiting_for() or 'the control plane'}"
        return ""

    def accept(self, listener: Any) -> None:
        """Accept one connection of our kind. Callers open some ahead of need: it is looked at once something comes."""
        try:
            accepted, source = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.nr_conns += 1
        about = (self.cfg, accepted, source, listener.getsockname())
        self._await(Connection(self.guard, self.resident.facade.identity, *about))

    def _await(self, conn: Connection) -> None:
        """Wait for more of a connection without a thread."""
        conn.timeout = time.monotonic() + (self.cfg.keepalive if self.alive else LINGER)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to the threads for requests, or to those for handshakes as long as it is in its own."""
        if conn.is_open:
            super().enqueue_req(conn)
            return
        entered = self._entrances.submit(self._enter, conn)
        entered.add_done_callback(lambda done: self.method_queue.defer(self._entered, conn, done))

    def _enter(self, conn: Connection) -> bool:
        try:
            conn.open()
        except (OSError, MeshError) as error:
            self.log.debug("a caller did not get in: %s", error)
            return False
        return True

    def _entered(self, conn: Connection, done: Future[bool]) -> None:
        if not done.cancelled() and done.result():
            self._await(conn)
        else:
            self._drop(conn)

    def _drop(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close connections that wait for too long, and those whose handshake does."""
        super().murder_pending()
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        pending = cast("Iterable[Connection]", self.pending_conns)
        for conn in [each for each in pending if each.is_late(now)]:
            self.pending_conns.remove(conn)
            self.poller.unregister(conn.sock)
            self._drop(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Serve one request; on an old connection it is the last, and its caller is told so."""
        if time.monotonic() > conn.last_until:
            req.force_close()
        return super().handle_request(req, conn)

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Leave the mesh, and then stop as gunicorn does: callers are told while requests still come in."""

        def leave() -> None:
            self.resident.drain()
            stop(sig, frame)

        stop = super().handle_exit
        threading.Thread(target=leave, name="masche-leaves").start()

    def _cap_keepalive(self, deadline: float) -> None:
        """At the end wait as little for connections that never brought a request as for those that may again."""
        base: Any = super()
        base._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout or deadline, deadline)

    def run(self) -> None:
        """Serve until told to stop, and be gone from the mesh."""
        super().run()
        self._entrances.shutdown(wait=False, cancel_futures=True)
        self.resident.close(drain=0)
