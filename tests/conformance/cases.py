"""Reads cases of other projects (a manifest, requests, what must come of each) and judges real answers by them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from live.client import Answer, grpc, http1, http2
from live.mesh import Live, Standing, here
from masche.model.mesh import Mesh
from masche.model.ports import Entry, Snapshot
from masche.model.yaml import Loaded, load_many
from masche.registry.merge import from_snapshot

OWN = Path(__file__).parent / "cases"
SAMPLES = Path(__file__).parents[1] / "compiler" / "cases"
TRIES = 3
"""Consecutive tries in which a case must hold."""

GRPC_CODES = {"OK": "0", "PermissionDenied": "7", "Unimplemented": "12", "Unavailable": "14"}
"""The numbers of the codes that cases name."""

Case = Mapping[str, Any]
_uuids = count(1)


def read(path: Path) -> list[Case]:
    """Read cases."""
    return yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["cases"]


def read_groups(path: Path) -> list[Case]:
    """Read groups of cases that share their policies."""
    return yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["groups"]


@lru_cache(maxsize=256)
def loaded(*files: Path) -> Loaded:
    return load_many([(file.name, here(file.read_text())) for file in files])


def a_mesh(found: Loaded) -> Mesh:
    assert not found.errors, "\n".join(map(str, found.errors))
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in found.resources)
    return from_snapshot(Snapshot(revision=1, entries=tuple(entries)))


# -- sending ----------------------------------------------------------------------------------------------------------


def send(to: tuple[str, int], case: Case, host: str, *, is_absolute: bool = False) -> Answer:
    """Send the request of a case to ``host`` by way of ``to``; ``is_absolute`` as to an explicit proxy."""
    request = case["request"]
    path = request.get("path", "/").replace("{FRESH_UUID}", f"try-{next(_uuids)}")
    headers = [(name, str(value)) for name, value in request.get("headers", {}).items()]
    if asked := case.get("backend_sets_response_headers"):
        headers.append(("X-Echo-Set-Header", ",".join(f"{name}:{value}" for name, value in asked.items())))
    method = request.get("method", "GET")
    if request.get("protocol") == "grpc":
        headers += [(name, str(value)) for name, value in request.get("metadata", {}).items()]
        called = f"/{request.get('service', 'proto.EchoTestService')}/{request.get('method', 'Echo')}"
        return grpc(to, called, host, headers)
    if request.get("protocol") == "h2c-prior-knowledge":
        return http2(to, method, path, host, headers)
    return http1(to, method, f"http://{host}{path}" if is_absolute else path, host, headers)


def ways(standing: Standing, host: str, port: int) -> Iterator[tuple[str, tuple[str, int], bool]]:
    """All ways by which an application reaches a Service: its URL, and the explicit proxy."""
    way = standing.way(host, port)
    assert way, f"{standing.workload.name} is given no Service {host}:{port}"
    yield "URL", standing.local(way.service), False
    yield "proxy", standing.proxy, True


# -- judging ----------------------------------------------------------------------------------------------------------


def tries(case: Case) -> int:
    return 300 if "distribution" in case["expect"] else TRIES


def faults(live: Live, case: Case, to: tuple[str, int], host: str, *, is_absolute: bool = False) -> Iterator[str]:
    """Send a case as often as it must hold, and say what is wrong."""
    served: Counter[str] = Counter()
    for _ in range(tries(case)):
        live.forget()
        answer = send(to, case, host, is_absolute=is_absolute)
        served[answer.echo.get("workload", "").rpartition("-")[0]] += 1
        wrong = [*_wrong(live, answer, case["expect"], host)]
        yield from wrong
        if wrong:
            yield f"  after {case['request']}: {answer}"
            return
    yield from _distribution(served, case["expect"].get("distribution", {}))


def _distribution(served: Counter[str], wanted: Mapping[str, float]) -> Iterator[str]:
    """Shares of the requests; by chance one of 300 is further off than this once in ten thousand times."""
    for name, share in wanted.items():
        found = served[name] / served.total()
        if abs(found - share) > 0.11:
            yield f"{name} served {found:.0%} instead of {share:.0%}"


def _wrong(live: Live, answer: Answer, expect: Case, host: str) -> Iterator[str]:
    if "grpc_code" in expect and answer.grpc_status != GRPC_CODES[expect["grpc_code"]]:
        yield f"grpc-status {answer.grpc_status} instead of {expect['grpc_code']}"
        return
    statuses = expect.get("status", [200])
    if answer.status not in statuses:
        yield f"status {answer.status} instead of {statuses}"
        return
    echo = answer.echo
    if "backend" in expect and answer.status == 200 and not echo.get("workload", "").startswith(expect["backend"]):
        yield f"{echo.get('workload')} answered instead of {expect['backend']}"
    if echo:
        namespace = expect.get("backend_namespace", echo["namespace"])
        if echo["namespace"] != namespace:
            yield f"an instance of {echo['namespace']} answered instead of one of {namespace}"
        yield from _received(echo, expect.get("upstream_request", {}))
    yield from _response(answer, expect.get("response_headers", {}))
    if "redirect" in expect:
        yield from _redirect(answer.header("location") or "", expect["redirect"], host)
    for mirror in expect.get("mirrored_to", ()):
        if not live.arrived(lambda got, name=mirror["name"]: got.workload.startswith(name)):
            yield f"no copy arrived at {mirror['name']}"


def _received(echo: Mapping[str, Any], wanted: Case) -> Iterator[str]:
    for name in ("path", "method", "host"):
        if wanted.get(name, echo[name]) != echo[name]:
            yield f"{name} {echo[name]} arrived instead of {wanted[name]}"
    headers = _joined((key, value) for key, value in echo["headers"])
    for name, value in wanted.get("headers", {}).items():
        if headers.get(name.lower()) != value:
            yield f"header {name}: {headers.get(name.lower())!r} arrived instead of {value!r}"
    for name in wanted.get("absent_headers", ()):
        if name.lower() in headers:
            yield f"header {name} arrived"


def _joined(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for key, value in pairs:
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined


def _response(answer: Answer, wanted: Case) -> Iterator[str]:
    for name, value in wanted.get("equal", {}).items():
        if answer.header(name) != value:
            yield f"response header {name} is {answer.header(name)!r} instead of {value!r}"
    for name, values in wanted.get("one_of", {}).items():
        found = answer.header(name)
        if _spaceless(found) not in [_spaceless(value) for value in values]:
            yield f"response header {name} is {found!r} instead of one of {values}"
    for name in wanted.get("absent", ()):
        if answer.header(name) is not None:
            yield f"response header {name} is there: {answer.header(name)!r}"


def _spaceless(value: str | None) -> str | None:
    return value and value.replace(" ", "")


def _redirect(location: str, wanted: Case, host: str) -> Iterator[str]:
    """ "Well-known schemes MAY skip setting any port", and what is not written is as the request had it."""
    parts = urlsplit(location)
    well_known = {"http": "80", "https": "443"}[parts.scheme]
    found = {
        "scheme": parts.scheme,
        "host": parts.hostname or "",
        "path": parts.path,
        "port": str(parts.port or well_known),
    }
    asked_host, _, asked_port = host.partition(":")
    expected = {"host": asked_host, "scheme": "http", **wanted}
    expected.setdefault("port", asked_port if "scheme" not in wanted and "host" not in wanted and asked_port else "")
    expected["port"] = expected["port"] or {"http": "80", "https": "443"}[expected["scheme"]]
    for name, value in expected.items():
        if found[name] != value:
            yield f"redirected to {location!r}: {name} is not {value!r}"
