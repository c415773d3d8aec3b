"""The record of a benchmark: raw figures as JSON, a table for people, one line at the end for scripts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rig.machine import commit, machine

RESULTS = Path(__file__).parents[1] / "results"


@dataclass
class Figure:
    """One measured figure and what it should be. ``is_met`` None: no target was set for it."""

    name: str
    value: float
    unit: str = ""
    target: str = ""
    is_met: bool | None = None

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}{self.unit}"


@dataclass
class Record:
    """What one benchmark found. ``measures`` are the paths whose later change makes it out of date."""

    name: str
    title: str
    measures: tuple[str, ...]
    is_simulation: bool = False
    figures: list[Figure] = field(default_factory=list[Figure])
    tables: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    plots: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    raw: dict[str, Any] = field(default_factory=dict[str, Any])
    machine: str = field(default_factory=machine)
    commit: str = field(default_factory=commit)
    at: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))

    def figure(self, name: str, value: float, *, unit: str = "", target: str = "", is_met: bool | None = None) -> None:
        self.figures.append(Figure(name, value, unit, target, is_met))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Keep a table and print it."""
        self.tables.append({"title": title, "columns": list(columns), "rows": [list(row) for row in rows]})
        print(f"\n{title}")
        widths = [max(len(str(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(text)

    @property
    def is_met(self) -> bool:
        return all(each.is_met is not False for each in self.figures)

    def write(self) -> Path:
        """Keep it under ``bench/results`` and print the last line."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        body = {
            "name": self.name,
            "title": self.title,
            "at": self.at,
            "commit": self.commit,
            "machine": self.machine,
            "measures": list(self.measures),
            "simulation": self.is_simulation,
            "met": self.is_met,
            "figures": [vars(each) for each in self.figures],
            "tables": self.tables,
            "plots": self.plots,
            "notes": self.notes,
            "raw": self.raw,
        }
        path.write_text(json.dumps(body, indent=1) + "\n")
        verdict = "met" if self.is_met else "short"
        print(f"\nRESULT {self.name} {' '.join(map(str, self.figures))} {verdict if self.figures else 'no figure'}")
        return path


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value which ``share`` of ``ordered`` (ascending) stays under; 0.0 of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Counts as percent of their sum."""
    total = sum(counts.values()) or 1
    return {name: 100 * count / total for name, count in sorted(counts.items())}
