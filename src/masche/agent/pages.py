"""What is asked of an Envoy's statistics once a second, and how the two answers are read. Pure.

Counters and gauges come as Prometheus text, where labels cannot be confused with values. Histograms come as JSON with
only the buckets that hold something: as text each would be seventy lines, most of them saying nothing, and reading
those of a busy machine took a tenth of a core. Invariant: what is not of the mesh's own names is passed over.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import quote

import msgspec

from masche.telemetry import prometheus
from masche.telemetry.prometheus import Sample
from masche.wire import stats

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]
Buckets = Mapping[tuple[float, float], int]
"""Counts by lower bound and width."""

_COUNTED = (
    r"^(mesh\.[a-z_]+_total|server\.live|cluster_manager\.warming_clusters"
    r"|listener_manager\.total_listeners_warming|cluster\..*\.ejections_active"
    r"|cluster\.outbound/.*\.upstream_cx_active$)"
)
_FAMILIES = (stats.REQUEST_US, stats.INSTANCE_US, stats.INSTANCE_SERVICE_US)
_TIMED = rf"^{stats.SCOPE}\.({'|'.join(_FAMILIES)})\."

NUMBERS = f"/stats/prometheus?usedonly&filter={quote(_COUNTED)}"
"""Asks for counters and gauges."""

HISTOGRAMS = f"/stats?format=json&usedonly&type=Histograms&histogram_buckets=detailed&filter={quote(_TIMED)}"
"""Asks for histograms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Running totals, as of one moment."""

    samples: Iterable[Sample]
    distributions: Mapping[Key, Buckets] = field(default_factory=dict[Key, Buckets])


class _Bucket(msgspec.Struct, gc=False):
    lower_bound: float = 0.0
    width: float = 0.0
    count: int = 0


class _Distribution(msgspec.Struct, gc=False):
    name: str = ""
    totals: tuple[_Bucket, ...] = ()


class _Details(msgspec.Struct):
    details: tuple[_Distribution, ...] = ()


class _Entry(msgspec.Struct):
    histograms: _Details = msgspec.field(default_factory=_Details)


class _Histograms(msgspec.Struct):
    stats: tuple[_Entry, ...] = ()


_DECODER = msgspec.json.Decoder(_Histograms)


class Reader:
    """Reads the answers of one Envoy. One that is the same as the last costs nothing but the comparison."""

    def __init__(self) -> None:
        self._seen = b""
        self._distributions: Mapping[Key, Buckets] = {}

    def read(self, numbers: bytes, histograms: bytes) -> Page:
        """Read the answers to ``NUMBERS`` and ``HISTOGRAMS``. Raises msgspec.DecodeError."""
        seen = blake2b(histograms, digest_size=16).digest()
        if seen != self._seen:
            self._distributions = _distributions(histograms)
            self._seen = seen
        return Page(
            samples=prometheus.parse(numbers.decode(errors="replace")),
            distributions=self._distributions,
        )


def parse(numbers: bytes, histograms: bytes) -> Page:
    """Read the answers to ``NUMBERS`` and ``HISTOGRAMS`` once. Raises msgspec.DecodeError."""
    return Reader().read(numbers, histograms)


def _distributions(histograms: bytes) -> Mapping[Key, Buckets]:
    found = (each for entry in _DECODER.decode(histograms).stats for each in entry.histograms.details)
    return {
        key: {(bucket.lower_bound, bucket.width): bucket.count for bucket in each.totals}
        for each in found
        if each.totals and (key := _key(each.name))
    }


_DESTINATION = r"(?:inbound|outbound)/[^/]+/[^/]+/[0-9]+|[a-z-]*"
_WHOSE = rf"(?:\.{stats.WORKLOAD}\.([^/]+/[^/]+))?"
_OF_AN_EDGE = re.compile(
    rf"{stats.SCOPE}\.({stats.REQUEST_US})\.{stats.REPORTER}\.({stats.REPORTER_SOURCE}|{stats.REPORTER_DESTINATION})"
    rf"\.{stats.SOURCE}\.(.*)\.{stats.DESTINATION}\.({_DESTINATION}){_WHOSE}"
)
_OF_AN_INSTANCE = re.compile(
    rf"{stats.SCOPE}\.({stats.INSTANCE_US}|{stats.INSTANCE_SERVICE_US})\.{stats.DESTINATION}\.({_DESTINATION})"
    rf"\.{stats.INSTANCE}\.(.*?){_WHOSE}"
)
"""Names with their tags, in the order in which the encoder gives them. A name of the mesh may contain a dot, and the
name of a tag between two, but no slash, by which a destination is told from it."""


@lru_cache(maxsize=1 << 14)
def _key(name: str) -> Key | None:
    if found := _OF_AN_INSTANCE.fullmatch(name):
        family, destination, instance, workload = found.groups()
        return stats.PREFIX + family, _labels({stats.DESTINATION: destination, stats.INSTANCE: instance}, workload)
    if found := _OF_AN_EDGE.fullmatch(name):
        family, reporter, source, destination, workload = found.groups()
        labels = {stats.REPORTER: reporter, stats.SOURCE: source, stats.DESTINATION: destination}
        return stats.PREFIX + family, _labels(labels, workload)
    return None


def _labels(labels: dict[str, str], workload: str | None) -> tuple[tuple[str, str], ...]:
    """In the order of their names, as a Key has them."""
    return tuple(sorted({**labels, **({stats.WORKLOAD: workload} if workload else {})}.items()))
