"""Somebody who tries to get past the mesh: plaintext, foreign certificates, stolen ones, a false server."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.mesh import Instance
from masche.identity import files, keys
from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId

REQUEST = b"GET /intruder HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
OLD_HELLO = bytes.fromhex("16030100310100002d0301") + bytes(32) + bytes.fromhex("000006002f0035000a0100")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A chain with its key, in one file."""

    file: Path

    @classmethod
    def of_another_authority(cls, folder: Path, name: str) -> "Certificate":
        """The same name, signed by an authority that the mesh does not know."""
        now = time.time()
        authority = Authority.open(folder / "another", "mesh.local", now=now, audit=lambda _: None)
        key = keys.generate()
        issued = authority.sign(keys.signing_request(key), SpiffeId.parse(name), now=now)
        return cls._kept(folder / "foreign.pem", issued.chain, keys.private_pem(key).reveal().decode())

    @classmethod
    def stolen_from(cls, instance: Instance) -> "Certificate":
        """The one that an instance uses now."""
        kept = json.loads((instance.seat_folder / "identity.json").read_bytes())
        return cls._kept(instance.mesh.folder / f"{instance.name}.pem", kept["chain"], kept["key"])

    @classmethod
    def _kept(cls, file: Path, chain: str, key: str) -> "Certificate":
        files.write_private(file, (chain + key).encode())
        return cls(file)


def plaintext(address: str, port: int, data: bytes, *, within: float = 2.0) -> bytes:
    """Everything that comes back; b"" when the connection is closed, or nothing is said until the time is up."""
    with socket.create_connection((address, port), timeout=within) as connection:
        return _exchange(connection, data)


def encrypted(
    address: str, port: int, data: bytes, *, certificate: Certificate | None = None, protocols: Sequence[str] = ()
) -> bytes:
    """The same over TLS, whoever the server is; b"" when the handshake or the connection is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate.file)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with socket.create_connection((address, port), timeout=3) as plain:
        try:
            with context.wrap_socket(plain) as connection:
                return _exchange(connection, data)
        except (ssl.SSLError, ConnectionError):
            return b""


def _exchange(connection: socket.socket, data: bytes) -> bytes:
    received = b""
    try:
        connection.sendall(data)
        while chunk := connection.recv(65536):
            received += chunk
    except (TimeoutError, ConnectionError, ssl.SSLError):
        pass
    return received


def listening_sockets(pid: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket on which a process listens, by the kernel's own tables."""
    inodes = {link[8:-1] for link in _open_files(pid) if link.startswith("socket:[")}
    found: set[tuple[str, int]] = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                raw, _, port = fields[1].partition(":")
                words = b"".join(bytes.fromhex(raw[at : at + 8])[::-1] for at in range(0, len(raw), 8))
                found.add((socket.inet_ntop(family, words), int(port, 16)))
    return found


def _open_files(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(entry.readlink())


@dataclass(eq=False)
class FalseServer:
    """A TLS server with a certificate of one's choice, which remembers what callers sent once they trusted it."""

    certificate: Certificate
    port: int
    handshakes: int = 0
    received: bytes = b""
    _listening: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))

    def __enter__(self) -> "FalseServer":
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", self.port))
        self._listening.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate.file)
        context.set_alpn_protocols(["h2"])
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            plain.settimeout(3)
            self.handshakes += 1
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    while chunk := connection.recv(65536):
                        self.received += chunk
            except OSError:
                continue
