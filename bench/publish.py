"""Writes docs/benchmarks.md from what is under bench/results: ``make bench NAME=publish``.

A figure counts as one of now only if nothing of what it measures has changed since the commit that it was measured at.
The others stand after them and say that they are older, and this names them and ends with 1. What was measured on files
that no commit has is left out.
"""

import json
import sys
from pathlib import Path
from typing import Any

from rig.machine import ROOT, git
from rig.record import RESULTS

PAGE = ROOT / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

What masche does with traffic, in figures. Each was measured by one command, which is named beside it, on the machine
that is named beside it; the raw figures are under `bench/results/`. *Simulation* means virtual time: the decisions are
those of the real code, the servers and the network are not there. A target that was not reached says **short**.

The peers call the servers directly and in plaintext; masche has a proxy at both ends and mutual TLS between them.
"""


CHANGES = "changes of what it measures"
"""The only reason for which a figure is still shown, as an older one."""

OLDER = """# Older figures

What these measure has been changed since. They were right when they were measured, and say so.
"""


def outdated(record: dict[str, Any]) -> str:
    """Why a record must not be published, or ""."""
    commit, measures = str(record.get("commit", "")), record.get("measures")
    if not measures:
        return "it does not say what it measures"
    if commit.endswith("+"):
        return "it was measured on files that no commit has"
    if not git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
        return f"its commit {commit} is not known"
    changes = git("log", "--oneline", f"{commit}..HEAD", "--", *measures).splitlines()
    changes += git("status", "--porcelain", "--", *measures).splitlines()
    return f"{len(changes)} {CHANGES} since {commit}, the last: {changes[0]}" if changes else ""


def section(record: dict[str, Any]) -> str:
    kind = " (simulation)" if record["simulation"] else ""
    lines = [
        f"## {record['title']}{kind}",
        "",
        f"`make bench NAME={record['name']}` at commit {record['commit']}, {record['at']}; {record['machine']}.",
        "",
    ]
    for table in record["tables"]:
        lines += [f"{table['title']}:", "", _row(table["columns"]), _row(["---"] * len(table["columns"]))]
        lines += [*map(_row, table["rows"]), ""]
    for figure in record["figures"]:
        if figure["target"]:
            verdict = {True: "met", False: "**short**", None: "no target"}[figure["is_met"]]
            value = f"{figure['value']:g}{' ' if figure['unit'] else ''}{figure['unit']}"
            lines.append(f"- {figure['name'].replace('_', ' ')}: {value} (target {figure['target']}): {verdict}")
    lines += ["", *(f"{note}\n" for note in record["notes"])]
    lines += [f"![{record['title']}](../bench/results/{plot})" for plot in record["plots"]]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> int:
    sections: list[str] = []
    older: list[str] = []
    refused: list[str] = []
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        why = outdated(record)
        if not why:
            sections.append(section(record))
            continue
        refused.append(f"{path.stem}: {why}; run make bench NAME={path.stem}")
        if CHANGES in why:
            title, rest = section(record).split("\n", 1)
            older.append(f"{title}\n\n**Older**: {why.partition(', the last')[0]}.\n{rest}")
    PAGE.write_text("\n".join([HEAD, *sections, *([OLDER] if older else []), *older]))
    print(f"{Path('docs') / PAGE.name}: {len(sections)} published, {len(older)} older", *refused, sep="\n")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
