"""The one nft table of ours in the host's own namespace, which is there only while somebody needs it. Pure.

Whoever asked for exclusions sends what is excluded straight on, past the proxy: it leaves by the machine's own address,
as the workload's is known to nobody beyond. Invariant: no word of it concerns anything but workloads of this data
folder; whether the machine forwards at all is not ours to decide.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from masche.agent.capture.names import Names


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """``leaving`` and ``leaving6`` are the addresses of workloads whose excluded connections go straight on."""

    leaving: tuple[str, ...] = ()
    leaving6: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leaving or self.leaving6)


def table(names: Names, rules: HostRules) -> str:
    """The whole table, in place of the one that there may be; only its removal when nobody needs it."""
    if not rules:
        return _gone(names)
    return f"{_gone(names)}table inet {names.host_table} {{\n{_chain(_masqueraded(names, rules))}}}\n"


def _gone(names: Names) -> str:
    return f"table inet {names.host_table}\ndelete table inet {names.host_table}\n"


def _chain(rules: Iterable[str]) -> str:
    kind = "type nat hook postrouting priority srcnat; policy accept;"
    return f"  chain leaving {{\n    {kind}\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def _masqueraded(names: Names, rules: HostRules) -> Iterator[str]:
    beyond = f'oifname != "{names.bridge}" masquerade'
    if rules.leaving:
        yield f"ip saddr {_set(rules.leaving)} {beyond}"
    if rules.leaving6:
        yield f"ip6 saddr {_set(rules.leaving6)} {beyond}"


def _set(members: Sequence[str]) -> str:
    return "{ " + ", ".join(members) + " }"
