"""The one nft table of ours in the host's own namespace, which is there only while somebody needs it. Pure.

Two kinds of workload need it. Who asked for exclusions sends what is excluded straight on, past the proxy: it leaves by
the machine's own address, as the workload's is known to nobody beyond. Who has no namespace but an address is captured
by that: what is sent from it, and what is sent to it. Invariant: no word of the table concerns anything but workloads
of this data folder; whether the machine forwards at all is not ours to decide.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from masche.agent.capture.exclusions import NOTHING, Exclusions
from masche.agent.capture.names import Names

_NAT = "type nat hook {} priority {}; policy accept;"
_FILTER = "type filter hook {} priority filter; policy accept;"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressed:
    """A workload that is known by ``address`` alone, and where what concerns it is led, on every address of the host.

    Names are answered on loopback only.
    """

    address: str
    outbound_port: int
    inbound_port: int
    dns_port: int
    exclusions: Exclusions = NOTHING

    @property
    def family(self) -> str:
        """What nft calls its kind of address."""
        return "ip" if ip_address(self.address).version == 4 else "ip6"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """``leaving`` and ``leaving6`` are the addresses of workloads whose excluded connections go straight on."""

    leaving: tuple[str, ...] = ()
    leaving6: tuple[str, ...] = ()
    addressed: tuple[Addressed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leaving or self.leaving6 or self.addressed)


def table(names: Names, rules: HostRules) -> str:
    """The whole table, in place of the one that there may be; only its removal when nobody needs it."""
    if not rules:
        return _gone(names)
    chains = (
        _chain("masqueraded", _NAT.format("postrouting", "srcnat"), _masqueraded(names, rules)),
        _chain("outbound", _NAT.format("output", "-100"), _of_each(rules, _outbound)),
        _chain("inbound", _NAT.format("prerouting", "dstnat"), ('iifname "lo" return', *_of_each(rules, _inbound))),
        _chain("leaving", _FILTER.format("output"), _of_each(rules, _leaving)),
        _chain("arriving", _FILTER.format("input"), _of_each(rules, _arriving)),
    )
    return f"{_gone(names)}table inet {names.host_table} {{\n{''.join(chains)}}}\n"


def _gone(names: Names) -> str:
    return f"table inet {names.host_table}\ndelete table inet {names.host_table}\n"


def _chain(name: str, kind: str, rules: Iterable[str]) -> str:
    return f"  chain {name} {{\n    {kind}\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def _masqueraded(names: Names, rules: HostRules) -> Iterator[str]:
    beyond = f'oifname != "{names.bridge}" masquerade'
    if rules.leaving:
        yield f"ip saddr {_set(rules.leaving)} {beyond}"
    if rules.leaving6:
        yield f"ip6 saddr {_set(rules.leaving6)} {beyond}"


def _of_each(rules: HostRules, told: Callable[[Addressed], Iterator[str]]) -> Iterator[str]:
    return (rule for each in rules.addressed for rule in told(each))


def _outbound(one: Addressed) -> Iterator[str]:
    own = f"{one.family} saddr {one.address}"
    yield f"{own} {one.family} daddr {one.address} return"  # it calls itself, or its proxy calls it
    yield f"{one.family} daddr {one.address} meta l4proto tcp redirect to :{one.inbound_port}"
    yield from (f"{own} {each} return" for each in _excused(one))
    yield from (f"{own} {protocol} dport 53 redirect to :{one.dns_port}" for protocol in ("udp", "tcp"))
    yield f"{own} fib daddr type local return"
    yield from (f"{own} {each} return" for each in _to_excluded(one))
    yield f"{own} meta l4proto tcp redirect to :{one.outbound_port}"


def _inbound(one: Addressed) -> Iterator[str]:
    to_it = f"{one.family} daddr {one.address}"
    if one.exclusions.inbound_ports:
        yield f"{to_it} tcp dport {_set(one.exclusions.inbound_ports)} return"
    yield f"{to_it} meta l4proto tcp redirect to :{one.inbound_port}"


def _leaving(one: Addressed) -> Iterator[str]:
    own = f"{one.family} saddr {one.address}"
    yield f"{own} fib daddr type local accept"
    yield f"{own} ct state established,related accept"
    yield from (f"{own} {each} accept" for each in (*_excused(one), *_to_excluded(one)))
    yield f"{own} drop"


def _arriving(one: Addressed) -> Iterator[str]:
    """Nobody reaches the proxy's ports but by a redirection."""
    yield f"tcp dport {{ {one.outbound_port}, {one.inbound_port} }} ct state established,related accept"
    yield f"tcp dport {{ {one.outbound_port}, {one.inbound_port} }} ct status dnat accept"
    yield f"tcp dport {{ {one.outbound_port}, {one.inbound_port} }} reject with tcp reset"


def _excused(one: Addressed) -> Iterator[str]:
    if one.exclusions.uids:
        yield f"meta skuid {_set(one.exclusions.uids)}"
    if one.exclusions.outbound_ports:
        yield f"tcp dport {_set(one.exclusions.outbound_ports)}"


def _to_excluded(one: Addressed) -> Iterator[str]:
    excluded = one.exclusions.addresses if one.family == "ip" else one.exclusions.addresses6
    if excluded:
        yield f"{one.family} daddr {_set(excluded)}"


def _set(members: Iterable[int | str]) -> str:
    return "{ " + ", ".join(map(str, members)) + " }"
