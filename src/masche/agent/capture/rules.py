"""The nft table of a workload's network namespace, as the text of one transaction. Pure.

What is asked of DNS goes to the mesh's own, TCP that leaves goes to the proxy, TCP that arrives goes to the proxy.
Invariant: nothing else passes in either direction but what was excluded; while the proxy is down its ports are closed,
so connections are refused. Nobody reaches the proxy's ports but by a redirection: whoever connects to one directly
would be taken for a connection to an address of the proxy's own machine.
"""

from collections.abc import Iterable, Iterator

from masche.agent.capture.exclusions import Exclusions
from masche.agent.capture.names import TABLE

OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
DNS_PORT = 15053
"""Where, on every address of the namespace, what leaves and what arrives is taken, and where names are answered."""

_NEIGHBOURS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-router-solicit } accept"


def table(exclusions: Exclusions) -> str:
    """The whole table, in place of the one that there may be."""
    chains = (
        _chain("outbound", "type nat hook output priority -100; policy accept;", _outbound(exclusions)),
        _chain("inbound", "type nat hook prerouting priority dstnat; policy accept;", _inbound(exclusions)),
        _chain("leaving", "type filter hook output priority filter; policy drop;", _leaving(exclusions)),
        _chain("arriving", "type filter hook input priority filter; policy drop;", _arriving(exclusions)),
    )
    return f"{gone()}table inet {TABLE} {{\n{''.join(chains)}}}\n"


def gone() -> str:
    """Remove the table, whether there is one or not."""
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n"


def _chain(name: str, kind: str, rules: Iterable[str]) -> str:
    return f"  chain {name} {{\n    {kind}\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def _outbound(exclusions: Exclusions) -> Iterator[str]:
    yield from _excused(exclusions, "return")
    for protocol in ("udp", "tcp"):  # before what is local: many machines have their resolver on loopback
        yield f"{protocol} dport 53 redirect to :{DNS_PORT}"
    yield "fib daddr type local return"  # a workload that calls itself needs no proxy
    yield from _to_excluded(exclusions, "return")
    yield f"meta l4proto tcp redirect to :{OUTBOUND_PORT}"


def _inbound(exclusions: Exclusions) -> Iterator[str]:
    yield 'iifname "lo" return'
    if exclusions.inbound_ports:
        yield f"tcp dport {_set(exclusions.inbound_ports)} return"
    yield f"meta l4proto tcp redirect to :{INBOUND_PORT}"


def _leaving(exclusions: Exclusions) -> Iterator[str]:
    yield "fib daddr type local accept"
    yield "ct state established,related accept"
    yield _NEIGHBOURS
    yield from _excused(exclusions, "accept")
    yield from _to_excluded(exclusions, "accept")


def _arriving(exclusions: Exclusions) -> Iterator[str]:
    yield "ct state established,related accept"
    yield f"tcp dport {{ {OUTBOUND_PORT}, {INBOUND_PORT} }} ct status dnat accept"
    yield f"tcp dport {{ {OUTBOUND_PORT}, {INBOUND_PORT} }} reject with tcp reset"
    yield 'iifname "lo" accept'
    yield _NEIGHBOURS
    if exclusions.inbound_ports:
        yield f"tcp dport {_set(exclusions.inbound_ports)} accept"


def _excused(exclusions: Exclusions, verdict: str) -> Iterator[str]:
    """Those whose questions for names are left alone, too."""
    if exclusions.uids:
        yield f"meta skuid {_set(exclusions.uids)} {verdict}"
    if exclusions.outbound_ports:
        yield f"tcp dport {_set(exclusions.outbound_ports)} {verdict}"
        if 53 in exclusions.outbound_ports:
            yield f"udp dport 53 {verdict}"


def _to_excluded(exclusions: Exclusions, verdict: str) -> Iterator[str]:
    if exclusions.addresses:
        yield f"ip daddr {_set(exclusions.addresses)} {verdict}"
    if exclusions.addresses6:
        yield f"ip6 daddr {_set(exclusions.addresses6)} {verdict}"


def _set(members: Iterable[int | str]) -> str:
    return "{ " + ", ".join(map(str, sorted(set(members), key=str))) + " }"
