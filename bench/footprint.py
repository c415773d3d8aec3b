"""What the node placement costs a machine: processor time per call between two of its workloads.

Against a pair of bare Envoys with mutual TLS, configured by hand, in the same run: one round of each after the other,
and the median of the rounds' quotients counts, so that whatever else the machine does burdens all of them.

    make bench NAME=footprint [ARGS="--rounds 7 --seconds 3"]
"""

import argparse
from collections.abc import Mapping, Sequence
from statistics import median

from rig.local_calls import LOCAL, PAIR, TLS, running
from rig.record import Record

CONNECTIONS = 16
TARGET = 0.60


def calls(record: Record, *, rounds: int, seconds: int) -> None:
    """Calls within one machine."""
    with running() as measured:
        found = [measured.round(CONNECTIONS, seconds) for _ in range(rounds)]
    record.raw["calls"] = {"connections": CONNECTIONS, "microseconds": [dict(each) for each in found]}
    rows = [
        [name, f"{median(each[name] for each in found):.0f}", f"{_quotient(found, name):.2f}"]
        for name in (PAIR, LOCAL, TLS)
    ]
    record.table(
        f"Processor time per call at {CONNECTIONS} connections (medians of {rounds} rounds)",
        ["way", "µs per call", "of the pair"],
        rows,
    )
    local = _quotient(found, LOCAL)
    record.figure("local", local, unit="x", target=f"<= {TARGET:.2f} of the pair", is_met=local <= TARGET)
    record.figure("same_machine_tls", _quotient(found, TLS), unit="x")


def _quotient(found: Sequence[Mapping[str, float]], name: str) -> float:
    return median(each[name] / each[PAIR] for each in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    given = parser.parse_args()
    record = Record(
        "footprint",
        "What many workloads behind one Envoy cost a machine",
        measures=("src/masche/compiler", "src/masche/wire", "bench/footprint.py", "bench/rig/local_calls.py"),
    )
    calls(record, rounds=given.rounds, seconds=given.seconds)
    record.write()


if __name__ == "__main__":
    main()
