"""gunicorn in the mesh: ``gunicorn -k masche.library.gunicorn.Worker --threads 8 app:app``, with MASCHE_SERVICE set.

A threaded worker whose connections begin with mutual TLS, or plaintext, or either, as the mesh says when they come, and
whose application is behind the mesh's door. One worker: each process of the library is a workload of its own, and
workers of one gunicorn share their port. It leaves in order: callers are told before the worker stops.
"""

import socket
import sys
import threading
import time
from typing import Any, Final

from gunicorn.workers import gthread
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

_LATER: Any = vars(gthread)["_DEFER"]
"""gunicorn's word for a connection on which nothing came yet."""

AT_ONCE: Final = 0.05
"""Seconds that a thread waits for a connection before gunicorn's poller does."""

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
        self.is_open = False
        self.last_until = last_until()

    def open(self) -> bool:
        """Take the handshake, and say whether a request follows at once. Raises OSError and MeshError.

        Callers open connections ahead of need, and one on which nothing comes yet must not hold a thread.
        """
        self.is_open = True
        if not self._is_tls():
            return True
        self.sock.settimeout(HANDSHAKE_TIMEOUT)
        self.sock = self._identity.server_context().wrap_socket(self.sock, server_side=True)
        self.data_ready = False
        return self.wait_for_data(AT_ONCE)

    def _is_tls(self) -> bool:
        mode = self._guard.mode()
        if mode is MtlsMode.STRICT or mode is MtlsMode.DISABLE:
            return mode is MtlsMode.STRICT
        return self.sock.recv(1, socket.MSG_PEEK) == bytes([HANDSHAKE])


class Worker(ThreadWorker):
    """gunicorn's threaded worker in the mesh."""

    resident: Resident
    guard: Door

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
        """Accept one connection, as gunicorn does, of our kind."""
        try:
            accepted, source = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.nr_conns += 1
        accepted.setblocking(True)  # noqa: FBT003 - the standard library's own signature
        about = (self.cfg, accepted, source, listener.getsockname())
        self.enqueue_req(Connection(self.guard, self.resident.facade.identity, *about))

    def handle(self, conn: Any) -> Any:
        """Serve what a connection brings, in a thread; a new one is first taken as the mesh says."""
        try:
            if not conn.is_open and not (conn.wait_for_data(AT_ONCE) and conn.open()):
                return _LATER
        except (OSError, MeshError) as error:
            self.log.debug("a caller did not get in: %s", error)
            return False
        return super().handle(conn)

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
        self.resident.close(drain=0)
