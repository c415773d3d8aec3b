"""What the node placement costs a machine: processor time per call between two of its workloads, memory, and starts.

Calls stand against a pair of bare Envoys with mutual TLS, configured by hand, in the same run: one round of each after
the other, and the median of the rounds' quotients counts, so that whatever else the machine does burdens all of them.
Memory is that of Envoy and agent, for so many idle workloads, against fewer behind sidecars of their own. Needs root.

    make bench NAME=footprint [ARGS="--rounds 7 --seconds 3 --workloads 100 --sidecars 20"]
"""

import argparse
from collections.abc import Mapping, Sequence
from statistics import median

from rig.crowd import Crowd, Weight
from rig.local_calls import LOCAL, PAIR, TLS, running
from rig.record import Record

CONNECTIONS = 16
TARGET = 0.60

MOST_MB, GOAL_MB = 1.5, 1.0
"""For each workload."""

FIRST_WITHIN, COLD_WITHIN = 1.0, 20.0
"""Seconds: from the start of one more workload to its first answer, and until all of them are ready."""

NEWCOMERS = 5


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


def weights(record: Record, *, workloads: int, sidecars: int) -> None:
    """Memory of idle workloads, and how fast they are there."""
    cold, first, node = _crowd("node", workloads, NEWCOMERS)
    sidecar_cold, sidecar_first, sidecar = _crowd("sidecar", sidecars, NEWCOMERS)
    record.table(
        f"Idle workloads: {workloads} behind one Envoy, {sidecars} with sidecars (PSS in MB)",
        ["placement", "Envoys", "all Envoys", "agent", "Envoy and agent, each", "masche run, each", "cold start s",
         "first answer s"],
        [
            _row("node", node, workloads, cold, first),
            _row("sidecar", sidecar, sidecars, sidecar_cold, sidecar_first),
        ],
    )  # fmt: skip
    each = node.each(workloads)
    record.figure("each", each, unit=" MB", target=f"<= {MOST_MB:g} MB, goal {GOAL_MB:g}", is_met=each <= MOST_MB)
    record.figure("first_answer", first, unit=" s", target=f"<= {FIRST_WITHIN:g} s", is_met=first <= FIRST_WITHIN)
    record.figure("cold", cold, unit=" s", target=f"<= {COLD_WITHIN:g} s", is_met=cold <= COLD_WITHIN)
    record.note("The agent is counted whole; what `masche run` itself weighs beside a command is in the table.")


def _crowd(placement: str, count: int, newcomers: int) -> tuple[float, float, Weight]:
    """Seconds of the cold start, median seconds of a newcomer's first answer, and the weight."""
    crowd = Crowd(placement)
    try:
        crowd.begin()
        cold = crowd.fill(count - 1)
        first = median(crowd.first_call() for _ in range(newcomers))
        return cold, first, crowd.weigh()
    finally:
        crowd.close()


def _row(name: str, weight: Weight, count: int, cold: float, first: float) -> list[str]:
    megabytes = (weight.envoy_mb, weight.agent_mb, weight.each(count), weight.runner_mb)
    return [name, str(weight.envoys), *(f"{each:.1f}" for each in megabytes), f"{cold:.1f}", f"{first:.2f}"]


def _quotient(found: Sequence[Mapping[str, float]], name: str) -> float:
    return median(each[name] / each[PAIR] for each in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--workloads", type=int, default=100)
    parser.add_argument("--sidecars", type=int, default=20)
    given = parser.parse_args()
    record = Record(
        "footprint",
        "What many workloads behind one Envoy cost a machine",
        measures=("src/masche/compiler", "src/masche/wire", "src/masche/agent", "bench/footprint.py", "bench/rig"),
    )
    weights(record, workloads=given.workloads, sidecars=given.sidecars)
    calls(record, rounds=given.rounds, seconds=given.seconds)
    record.write()


if __name__ == "__main__":
    main()
