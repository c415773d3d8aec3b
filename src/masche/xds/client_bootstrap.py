"""The bootstrap of gRFC A27: which control planes to ask, as whom, and by which names, from one file of JSON.

With it any xDS control plane drives the library. Invariant: what is not carried out is named in ``ignored``, with the
reason; what is wrong is a BootstrapError that says where and why, before anything is connected to.
"""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from masche.identity import dialling
from masche.identity.keys import Secret
from masche.model.frozen import frozen
from masche.rpc.channel import Channel
from masche.rpc.connection import Quiet
from masche.version import VERSION
from masche.wire.discovery import Node
from masche.xds.client import MAX_RESPONSE_BYTES, ControlPlane

FILE_VARIABLE: Final = "GRPC_XDS_BOOTSTRAP"
CONTENT_VARIABLE: Final = "GRPC_XDS_BOOTSTRAP_CONFIG"

MAX_BYTES: Final = 1024 * 1024
"""No bootstrap is longer."""

AGENT: Final = "masche"
FEATURES: Final = ("xds.config.resource-in-sotw",)
"""What we say of ourselves: resources may come in a wrapper that names them."""

QUIET: Final = Quiet(310.0, 20.0)
"""Servers of gRPC end connections on which they are asked more often than every five minutes, unless told otherwise."""

_DELETION: Final = "ignore_resource_deletion"

_IGNORED: Final = {
    "authorities": "resources are asked for by plain names; federation (gRFC A47) is not carried out",
    "server_listener_resource_name_template": "the Listeners of this process's own ports have the names of our mesh",
}
"""Fields of the standard that mean something and are not carried out."""


_WATCHER: Final = "file_watcher"


class BootstrapError(ValueError):
    """A bootstrap that cannot be used: where it is wrong, and why."""


class _Credentials(msgspec.Struct, frozen=True):
    type: str
    config: dict[str, Any] | None = None


class _Server(msgspec.Struct, frozen=True):
    server_uri: str
    channel_creds: tuple[_Credentials, ...]
    server_features: tuple[str, ...] = ()


class _Locality(msgspec.Struct, frozen=True):
    region: str = ""
    zone: str = ""
    sub_zone: str = ""


class _Node(msgspec.Struct, frozen=True):
    id: str = ""
    cluster: str = ""
    metadata: dict[str, Any] = {}
    locality: _Locality = _Locality()


class _Tls(msgspec.Struct, frozen=True):
    """The ``config`` of channel credentials "tls" (gRFC A65)."""

    ca_certificate_file: str = ""
    certificate_file: str = ""
    private_key_file: str = ""


class _Provider(msgspec.Struct, frozen=True):
    plugin_name: str = ""
    config: dict[str, Any] = {}


class _Watched(_Tls, frozen=True):
    """The ``config`` of a certificate provider "file_watcher" (gRFC A29)."""

    refresh_interval: str = "600s"


class _File(msgspec.Struct, frozen=True):
    xds_servers: tuple[_Server, ...]
    node: _Node = _Node()
    client_default_listener_resource_name_template: str = "%s"
    certificate_providers: dict[str, _Provider] = {}
    authorities: Any = None
    server_listener_resource_name_template: Any = None


@frozen
class CertificateFiles:
    """Where a process's own certificate, its key and the roots it trusts are (PEM), and how often they may change."""

    chain: str
    key: str
    roots: str
    refresh: float = 600.0


@frozen
class Bootstrap:
    """What a bootstrap says. ``template`` makes the name of an authority's Listener; ``ignored`` is for people.

    ``certificates`` are what this process shows to others, not to the control plane; None when nothing is said.
    """

    planes: tuple[ControlPlane, ...]
    node: Node
    template: str = "%s"
    certificates: CertificateFiles | None = None
    ignored: tuple[str, ...] = ()


def from_environment(environment: Mapping[str, str]) -> Bootstrap | None:
    """Read the bootstrap that the environment names: a file, or else the content itself; None when it names none.

    Blocks for the time of reading a small file.

    Raises:
        BootstrapError: there is one, and it cannot be used.
    """
    path, content = environment.get(FILE_VARIABLE, ""), environment.get(CONTENT_VARIABLE, "")
    if path:
        return parse(_read(path, FILE_VARIABLE), source=path)
    return parse(content.encode(), source=CONTENT_VARIABLE) if content else None


def parse(data: bytes, *, source: str) -> Bootstrap:
    """Read a bootstrap; ``source`` is what it is called in errors.

    Raises:
        BootstrapError: it cannot be used.
    """
    try:
        found = msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError as error:
        raise BootstrapError(f"{source}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BootstrapError(f"{source} is not JSON: {error}") from error
    if not found.xds_servers:
        raise BootstrapError(f"{source}: `$.xds_servers` is empty; a control plane to ask is needed")
    if not (template := found.client_default_listener_resource_name_template):
        raise BootstrapError(f"{source}: `$.client_default_listener_resource_name_template` is empty")
    planes = tuple(_plane(each, f"{source}: `$.xds_servers[{at}]`") for at, each in enumerate(found.xds_servers))
    certificates, others = _certificates(found.certificate_providers, source)
    reasons = {**{name: why for name, why in _IGNORED.items() if getattr(found, name)}, **others}
    ignored = tuple(f"{source}: `$.{name}` is ignored: {why}" for name, why in reasons.items())
    return Bootstrap(
        planes=planes, node=_node(found.node), template=template, certificates=certificates, ignored=ignored
    )


def _certificates(providers: dict[str, _Provider], source: str) -> tuple[CertificateFiles | None, dict[str, str]]:
    """Take the first source of certificates that is files; a process is one identity, so there is one of them."""
    found: CertificateFiles | None = None
    ignored: dict[str, str] = {}
    for name, provider in providers.items():
        where = f"certificate_providers[{name!r}]"
        if provider.plugin_name != _WATCHER:
            ignored[where] = f"{provider.plugin_name!r} is not carried out here; use {_WATCHER!r}"
        elif found is not None:
            ignored[where] = "a process shows one certificate, that of the first provider"
        else:
            found = _watched(provider.config, f"{source}: `$.{where}`.config")
    return found, ignored


def _watched(config: dict[str, Any], where: str) -> CertificateFiles:
    try:
        files = msgspec.convert(config, _Watched)
    except msgspec.ValidationError as error:
        raise BootstrapError(f"{where}: {error}") from error
    if not (files.certificate_file and files.private_key_file and files.ca_certificate_file):
        raise BootstrapError(f"{where}: certificate_file, private_key_file and ca_certificate_file are all needed")
    interval = files.refresh_interval
    try:
        refresh = float(interval.removesuffix("s"))
    except ValueError:
        refresh = 0.0
    if not 0 < refresh < float("inf") or not interval.endswith("s"):
        raise BootstrapError(f'{where}.refresh_interval: {interval!r} is no duration; write "600s"')
    return CertificateFiles(
        chain=files.certificate_file, key=files.private_key_file, roots=files.ca_certificate_file, refresh=refresh
    )


def read_pem(path: str) -> bytes:
    """Read a file of certificates or of a key. Raises BootstrapError."""
    return _read(path, "")


def _node(found: _Node) -> Node:
    where = found.locality
    return Node(
        id=found.id,
        cluster=found.cluster,
        metadata=found.metadata,
        region=where.region,
        zone=where.zone,
        sub_zone=where.sub_zone,
        agent=AGENT,
        agent_version=VERSION,
        features=FEATURES,
    )


def _plane(server: _Server, where: str) -> ControlPlane:
    if not server.server_uri:
        raise BootstrapError(f"{where}.server_uri is empty")
    return ControlPlane(
        name=server.server_uri,
        open=_opener(server, where),
        ignores_deletion=_DELETION in server.server_features,
    )


def _opener(server: _Server, where: str) -> Callable[[], Channel]:
    """Choose the first credentials that we know, "in order of preference" (A27)."""
    target = server.server_uri
    for at, credentials in enumerate(server.channel_creds):
        match credentials.type:
            case "insecure":
                return lambda: _channel(target, None)
            case "tls":
                tls = _tls(credentials.config or {}, f"{where}.channel_creds[{at}].config")
                return lambda: _channel(target, _context(tls))
            case _:
                continue
    kinds = ", ".join(repr(each.type) for each in server.channel_creds) or "none"
    raise BootstrapError(f'{where}.channel_creds: none of them is carried out here ({kinds}); use "tls" or "insecure"')


def _tls(config: dict[str, Any], where: str) -> _Tls:
    try:
        tls = msgspec.convert(config, _Tls)
    except msgspec.ValidationError as error:
        raise BootstrapError(f"{where}: {error}") from error
    if bool(tls.certificate_file) != bool(tls.private_key_file):
        raise BootstrapError(f"{where}: certificate_file and private_key_file go together (gRFC A65)")
    _context(tls, where)
    return tls


def _channel(target: str, tls: ssl.SSLContext | None) -> Channel:
    return Channel(target, tls=tls, quiet=QUIET, max_receive_bytes=MAX_RESPONSE_BYTES)


def _context(tls: _Tls, where: str = "") -> ssl.SSLContext:
    """Read the files anew for each connection: certificates rotate (A65's ``refresh_interval`` is never missed).

    Raises:
        BootstrapError: a file cannot be read or used; a ValueError, as is expected of a channel that cannot be.
    """

    def content(path: str) -> bytes | None:
        return _read(path, where) if path else None

    roots, key, chain = map(content, (tls.ca_certificate_file, tls.private_key_file, tls.certificate_file))
    try:
        return dialling.context(
            None if roots is None else roots.decode("ascii", "ignore"),  # bundles have comments in any language
            (chain or b"").decode("ascii", "replace"),
            None if key is None else Secret(key),
        )
    except (ssl.SSLError, ValueError) as error:
        raise BootstrapError(f"{where}: the files cannot be used for TLS: {error}".lstrip(": ")) from error


def _read(path: str, where: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BootstrapError(f"{where}: {path} cannot be read: {error.strerror or error}".lstrip(": ")) from error
    if len(data) > MAX_BYTES:
        raise BootstrapError(f"{where}: {path} is longer than {MAX_BYTES} bytes".lstrip(": "))
    return data
