"""Many small servers over mutual TLS in one thread, each with an identity of its own."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from masche.identity import keys
from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId
from masche.library.core.tls import Certificates
from rig.ports import free_port

TRUST_DOMAIN = "mesh.local"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Servers:
    """``ports`` by the names of the service accounts that they show."""

    def __init__(self, folder: Path, namespace: str, names: Sequence[str]) -> None:
        self._folder, self._namespace = folder, namespace
        self._authority = Authority.open(folder / "authority", TRUST_DOMAIN, now=time.time(), audit=lambda _: None)
        self.ports = {name: free_port() for name in names}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers")

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def files(self, account: str) -> dict[str, str]:
        """PEM files of a workload, for a client that is set up by hand."""
        chain, key = self._pair(account)
        parts = {"certificate": chain.encode(), "key": key.reveal(), "roots": self._authority.bundle.pem.encode()}
        for name, content in parts.items():
            path = self._folder / f"{account}.{name}"
            path.touch(mode=0o600)
            path.write_bytes(content)
        return {name: str(self._folder / f"{account}.{name}") for name in parts}

    def _pair(self, account: str) -> tuple[str, keys.Secret]:
        key = keys.generate()
        name = SpiffeId.of_workload(TRUST_DOMAIN, self._namespace, account)
        issued = self._authority.sign(keys.signing_request(key), name, now=time.time())
        return issued.chain, keys.private_pem(key)

    async def _serve(self) -> None:
        for name, port in self.ports.items():
            certificates = Certificates()
            certificates.put(*self._pair(name), self._authority.bundle.pem)
            await asyncio.start_server(_talk, "127.0.0.1", port, ssl=certificates.server_context())


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
