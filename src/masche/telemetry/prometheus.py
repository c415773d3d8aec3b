"""Prometheus' text format, out and in: a small registry of bounded series, a fast reader, and a way to join two pages.

A metric has at most so many series; whatever goes beyond is counted on one whose labels are all ``other``, so that no
caller can make the page or the memory grow.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from math import isfinite
from types import MappingProxyType
from typing import NamedTuple

from masche.telemetry.histogram import Histogram, cumulative
from masche.telemetry.names import FOLDED, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"

Values = tuple[str, ...]


class Metrics:
    """The values of all metrics of one process. Labels are given by name, exactly those of the Metric."""

    def __init__(self, *, limit: int = 2000) -> None:
        self.limit = limit
        self._numbers: dict[Metric, dict[Values, float]] = {}
        self._histograms: dict[Metric, dict[Values, Histogram]] = {}

    def count(self, metric: Metric, by: float = 1.0, /, **labels: str) -> None:
        """Add to a counter; ``by`` is not negative."""
        series = self._numbers.setdefault(metric, {})
        values = self._values(metric, series, labels)
        series[values] = series.get(values, 0.0) + by

    def set(self, metric: Metric, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        series = self._numbers.setdefault(metric, {})
        series[self._values(metric, series, labels)] = value

    def replace(self, metric: Metric, values: Mapping[str, float]) -> None:
        """Set all series of a gauge with one label at once; those not named are gone."""
        kept = sorted(values.items())[: self.limit]
        self._numbers[metric] = {(label,): value for label, value in kept}

    def observe(self, metric: Metric, seconds: float, /, **labels: str) -> None:
        """Record one value of a histogram."""
        one = Histogram()
        one.record(seconds * 1e6)
        self.absorb(metric, one, **labels)

    def absorb(self, metric: Metric, histogram: Histogram, /, **labels: str) -> None:
        """Add many values to a histogram."""
        series = self._histograms.setdefault(metric, {})
        series.setdefault(self._values(metric, series, labels), Histogram()).absorb(histogram)

    def _values(self, metric: Metric, series: Mapping[Values, object], labels: Mapping[str, str]) -> Values:
        if set(labels) != set(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
        values = tuple(labels[name] for name in metric.labels)
        if values in series or len(series) < self.limit or not values:
            return values
        if metric is not FOLDED:
            self.count(FOLDED, metric=metric.name)
        return (OTHER,) * len(values)

    def render(self) -> str:
        """The page, families and series in a stable order."""
        families = [(metric, _number_lines(metric, series)) for metric, series in self._numbers.items()]
        families += [(metric, _histogram_lines(metric, series)) for metric, series in self._histograms.items()]
        out: list[str] = []
        for metric, lines in sorted(families, key=lambda family: family[0].name):
            escaped = metric.help.replace("\\", r"\\").replace("\n", r"\n")
            out += [f"# HELP {metric.name} {escaped}", f"# TYPE {metric.name} {metric.kind}", *lines]
        return "\n".join((*out, ""))


def _number_lines(metric: Metric, series: Mapping[Values, float]) -> Iterator[str]:
    for values, number in sorted(series.items()):
        yield f"{metric.name}{_braces(metric.labels, values)} {_number(number)}"


def _histogram_lines(metric: Metric, series: Mapping[Values, Histogram]) -> Iterator[str]:
    names = (*metric.labels, "le")
    limits_us = [bound * 1e6 for bound in metric.bounds]
    for values, histogram in sorted(series.items(), key=lambda row: row[0]):
        counts = cumulative(histogram, limits_us)
        for bound, count in zip(metric.bounds, counts, strict=True):
            yield f"{metric.name}_bucket{_braces(names, (*values, _number(bound)))} {count}"
        yield f"{metric.name}_bucket{_braces(names, (*values, '+Inf'))} {histogram.count}"
        yield f"{metric.name}_sum{_braces(metric.labels, values)} {_number(histogram.sum_us / 1e6)}"
        yield f"{metric.name}_count{_braces(metric.labels, values)} {histogram.count}"


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def _braces(names: Values, values: Values) -> str:
    pairs = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _number(value: float) -> str:
    if not isfinite(value):
        return str(value).replace("inf", "Inf").replace("nan", "NaN")
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


class Sample(NamedTuple):
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


_LABEL = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:.]*)="((?:[^"\\]|\\.)*)"')
_UNESCAPE = re.compile(r'\\([\\"n])')
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


def parse(text: str, *, prefix: str = "") -> Iterator[Sample]:
    """Read a page; only series whose name begins with ``prefix``. Lines that are no sample are passed over.

    Label blocks are remembered between pages, since a proxy writes the same ones every second.
    """
    for line in text.split("\n"):
        if not line.startswith(prefix) or line.startswith("#"):
            continue
        name, brace, rest = line.partition("{")
        if brace:
            block, _, number = rest.rpartition("}")
            labels = _labels(block)
        else:
            name, _, number = line.partition(" ")
            labels = _NO_LABELS
        if name and (fields := number.split()):
            try:
                yield Sample(name, labels, float(fields[0]))
            except ValueError:
                continue


@lru_cache(maxsize=1 << 15)
def _labels(block: str) -> Mapping[str, str]:
    pairs = {name: _unescape(value) if "\\" in value else value for name, value in _LABEL.findall(block)}
    return MappingProxyType(pairs)


def _unescape(value: str) -> str:
    return _UNESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], value)


def join(pages: Iterable[str]) -> str:
    """One page out of several: the samples of a family stand together under the first page's HELP and TYPE.

    Text format 0.0.4: "All lines for a given metric must be provided as one single group".
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for page in pages:
        family, seen = "", set[str]()
        for line in page.split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                comments, _ = families.setdefault(family, ([], []))
                word = line[:7]
                if not any(each.startswith(word) for each in comments):
                    comments.append(line)
                seen.add(family)
            elif line and not line.startswith("#"):
                name = re.split(r"[{ ]", line, maxsplit=1)[0]
                owner = family if family in seen and name.startswith(family) else name
                families.setdefault(owner, ([], []))[1].append(line)
    lines = [line for comments, samples in families.values() for line in (*comments, *samples)]
    return "\n".join((*lines, ""))
