"""The library in a mesh of another's making: any xDS control plane, named by the bootstrap that gRPC reads (gRFC A27).

    mesh = masche.library.foreign.connect()
    client = httpx.Client(transport=masche.library.httpx.Transport(facade=mesh.facade))

Routes, clusters and endpoints come from that control plane, certificates from the files that the bootstrap names; there
is no link, so nothing is registered and nobody is reported to. Invariant: no call is made in plaintext unless the
control plane itself said so, and everything but calls happens in one daemon thread.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Final, Self

from masche.identity.keys import Secret
from masche.library.core.facade import CallOptions, Facade
from masche.library.core.ports import Called, Known, MeshError, Tried
from masche.library.core.tls import Certificates
from masche.library.knowledge.knowledge import XdsKnowledge
from masche.wire.discovery import encode_node
from masche.xds.client import XdsClient
from masche.xds.client_bootstrap import (
    CONTENT_VARIABLE,
    FILE_VARIABLE,
    Bootstrap,
    BootstrapError,
    CertificateFiles,
    from_environment,
    read_pem,
)
from masche.xds.client_words import Decoders

CLOSE_WITHIN: Final = 5.0
"""Seconds that ``close`` waits for the thread."""

_log = logging.getLogger("masche.library")


class Foreign:
    """One process in such a mesh. ``facade`` is what transports are given; ``close`` ends what runs beside."""

    def __init__(self, bootstrap: Bootstrap, *, options: CallOptions | None = None) -> None:
        self._bootstrap = bootstrap
        self._certificates = Certificates()
        for ignored in bootstrap.ignored:
            _log.warning("%s", ignored)
        if bootstrap.certificates:
            _put(self._certificates, bootstrap.certificates)
        rng = Random()  # noqa: S311 - it spreads attempts over time, and keeps no secret
        node = encode_node(bootstrap.node)
        self._client = XdsClient(bootstrap.planes, node=lambda: node, decoders=_decoders(), rng=rng)
        knowledge = XdsKnowledge(
            self._client, now=time.monotonic, rng=rng, template=bootstrap.template, prepare=self._prepare
        )
        self._knowledge = knowledge
        self.facade = Facade(
            knowledge=knowledge,
            identity=self._certificates,
            recorder=_Nobody(),
            options=options or CallOptions(caller=bootstrap.node.id),
        )
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="masche-foreign", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; calls fail from then on. Blocks for the moment that this takes."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop was closed in this very moment
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(CLOSE_WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        planes = ", ".join(plane.name for plane in self._bootstrap.planes)
        return f"<Foreign mesh of {planes}: {self._knowledge!r}>"

    def _prepare(self, known: Known) -> None:
        self.facade.prepare(known)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._client.run()), tasks.create_task(self._knowledge.run())]
            if files := self._bootstrap.certificates:
                running.append(tasks.create_task(_renew(self._certificates, files)))
            await self._over.wait()
            for task in running:
                task.cancel()


def connect(environment: Mapping[str, str] | None = None, *, options: CallOptions | None = None) -> Foreign:
    """Join the mesh that the environment names (GRPC_XDS_BOOTSTRAP, else GRPC_XDS_BOOTSTRAP_CONFIG).

    Nothing is waited for but a few small files. After a fork a child connects for itself.

    Raises:
        MeshError: no bootstrap is named, or it cannot be used; it says where and why.
    """
    try:
        bootstrap = from_environment(os.environ if environment is None else environment)
    except BootstrapError as error:
        raise MeshError(str(error)) from error
    if bootstrap is None:
        raise MeshError(f"neither {FILE_VARIABLE} nor {CONTENT_VARIABLE} names a bootstrap: set one of them")
    return Foreign(bootstrap, options=options)


def _decoders() -> Decoders:
    """All decoders, with the descriptors that only they need."""
    from masche.wire.decode.decoders import decoders

    return decoders


def _put(certificates: Certificates, files: CertificateFiles) -> None:
    """Show what the files hold now. Raises MeshError; then what was shown before stays."""
    try:
        chain, key, roots = (read_pem(path) for path in (files.chain, files.key, files.roots))
        certificates.put(chain.decode(), Secret(key), roots.decode())
    except (BootstrapError, UnicodeDecodeError) as error:
        raise MeshError(str(error)) from error


async def _renew(certificates: Certificates, files: CertificateFiles) -> None:
    """Look at the files again and again: who writes them renews them there."""
    while True:
        await asyncio.sleep(files.refresh)
        try:
            await asyncio.to_thread(_put, certificates, files)
        except MeshError as error:
            _log.warning("the certificate stays as it was: %s", error)


class _Nobody:
    """Counts nothing: nobody of ours is there to be told."""

    def tried(self, tried: Tried) -> None:
        """Forget it."""

    def called(self, called: Called) -> None:
        """Forget it."""
