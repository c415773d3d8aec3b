"""In which order modules of tests are begun: what takes longest first, so that no worker is left alone with it.

The seconds are those of an earlier run; ``make test ARGS=--record-seconds`` writes them anew. They decide about the
order and nothing else: a module that is not among them comes first, and one that is gone is not missed.
"""

import json
from collections import Counter
from collections.abc import Iterable
from math import inf
from pathlib import Path

import pytest

SECONDS = Path(__file__).with_name("seconds.json")


def arrange(items: list[pytest.Item]) -> None:
    """Sort by module, the longest first; within a module the order stays as it is."""
    known: dict[str, float] = json.loads(SECONDS.read_bytes())
    items.sort(key=lambda item: -known.get(_module(item.nodeid), inf))


def record(reports: Iterable[pytest.TestReport]) -> None:
    """Write down how many seconds each module took, with its fixtures; those that did not run keep theirs."""
    took: Counter[str] = Counter()
    for report in reports:
        took[_module(report.nodeid)] += report.duration
    known: dict[str, float] = json.loads(SECONDS.read_bytes())
    known |= {name: round(seconds, 1) for name, seconds in took.items()}
    told = {name: known[name] for name in sorted(known) if SECONDS.parent.parent.joinpath(name).is_file()}
    SECONDS.write_text(json.dumps(told, indent=1) + "\n")


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]
