"""Policies and requests by chance, the same for the same seed: what people may write, and what callers may send.

A policy is mostly made of what its request holds, cut or changed a little, so that most cases are decided by a hair.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from masche.compiler.conditions import operation, source, when
from masche.model.resources.security import AttributeCondition, Operation, Source
from masche.model.view import Condition, Decision, Policy, Rule
from masche.traffic.normalise import normalise
from masche.traffic.request import Connection, Request
from masche.traffic.verdict import Verdict
from parity.requests import request

TRUST_DOMAIN = "mesh.local"
ODD_CALLERS = [
    "mesh.local/ns/shop",
    "mesh.local/ns/shop/sa/web/x",
    "mesh.local/sa/web/ns/shop",
    "mesh.local/machine/m-1",
    "mesh.local/ns/a/b/sa/c",
]
CALLERS = [
    "mesh.local/ns/shop/sa/web",
    "mesh.local/ns/shop/sa/web.v2",
    "mesh.local/ns/office/sa/web",
    "mesh.local/ns/sho/sa/p",
    "mesh.local/ns/SHOP/sa/Web",
]
SOURCES = {4: ["127.0.0.1", "127.0.0.2", "127.1.2.3", "127.128.0.9"], 6: ["::1"]}
BLOCKS = ["127.0.0.0/8", "127.0.0.1", "127.0.0.0/31", "127.1.2.3/16", "10.0.0.0/8", "0.0.0.0/0"]
BLOCKS_6 = ["::1", "::1/128", "::/0", "::/127", "fd00::/8", "::ffff:127.0.0.1", "::ffff:0:0/96"]
ACCOUNTS = ["shop/web", "office/web", "web", "web.v2", "shop/web.v2", "sho/p"]
NAMES = ["web", "shop", "office", "*", "we*", "*b", "mesh.local/*", "*/sa/web", "spiffe://mesh.local/*", "s.op"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request of one caller (no name: in plaintext) from one address, and the policies that it meets."""

    policies: tuple[Policy, ...]
    request: Request
    caller: str
    source: str
    family: int

    def seen(self, port: int, destination: str) -> Request:
        """The request with what is known of its connection."""
        connection = Connection(peer=self.caller or None, source_ip=self.source, destination_ip=destination, port=port)
        asked = self.request
        return Request(
            method=asked.method,
            target=asked.target,
            authority=asked.authority,
            scheme="https" if self.caller else "http",
            headers=tuple((name.lower(), value.strip(" \t")) for name, value in asked.headers),
            connection=connection,
        )


def cases(seed: int, count: int, *, ports: dict[int, int], addresses: dict[int, str]) -> Iterator[Case]:
    """Yield so many cases; ``ports`` and ``addresses`` are where they are received, by family of addresses."""
    rng = Random(seed)
    for _ in range(count):
        family = rng.choice((4, 4, 4, 6))
        asked = request(rng)
        caller = rng.choice((*CALLERS, *CALLERS, rng.choice(ODD_CALLERS), "", ""))
        found = Case(policies=(), request=asked, caller=caller, source=rng.choice(SOURCES[family]), family=family)
        writer = _Writer(rng, found, ports[family], addresses[family])
        yield Case(policies=writer.policies(), request=asked, caller=caller, source=found.source, family=family)


class _Writer:
    """Writes policies for one case."""

    def __init__(self, rng: Random, case: Case, port: int, address: str) -> None:
        self._rng, self._case, self._port, self._address = rng, case, port, address

    def policies(self) -> tuple[Policy, ...]:
        return tuple(self._policy(f"shop/p{index}") for index in range(self._rng.choice((0, 1, 1, 1, 2, 3))))

    def _policy(self, name: str) -> Policy:
        rng = self._rng
        rules = tuple(self._rule(f"{name} rules[{index}]") for index in range(rng.choice((0, 1, 1, 1, 2, 2, 3))))
        return Policy(name=name, decision=rng.choice((Decision.ALLOW, Decision.ALLOW, Decision.DENY)), rules=rules)

    def _rule(self, name: str) -> Rule:
        rng = self._rng
        kind = rng.choice(("from", "from", "to", "to", "to", "when", "when", "all", "none"))
        return Rule(
            name=name,
            sources=self._some(self._source) if kind in {"from", "all"} else (),
            operations=self._some(self._operation) if kind in {"to", "all"} else (),
            when=tuple(
                when(self._condition(), "shop", TRUST_DOMAIN)
                for _ in range(rng.randint(1, 2))
                if kind in {"when", "all"}
            ),
        )

    def _some(self, make: Callable[[], tuple[Condition, ...]]) -> tuple[tuple[Condition, ...], ...]:
        return tuple(make() for _ in range(self._rng.choice((1, 1, 2))))

    def _source(self) -> tuple[Condition, ...]:
        rng, peer = self._rng, self._case.caller
        namespace, account = _parts(peer)
        fields: dict[str, Callable[[], str]] = {
            "principals": lambda: self._like(peer),
            "namespaces": lambda: self._like(namespace),
            "service_accounts": lambda: rng.choice((*ACCOUNTS, f"{namespace or 'shop'}/{account or 'web'}")),
            "ip_blocks": self._block,
            "remote_ip_blocks": self._block,
        }
        return source(Source(**self._fields(fields)), "shop", TRUST_DOMAIN)

    def _operation(self) -> tuple[Condition, ...]:
        asked = self._case.request
        fields: dict[str, Callable[[], str]] = {
            "paths": self._path,
            "hosts": lambda: self._like(asked.authority),
            "methods": lambda: self._like(asked.method),
            "ports": lambda: self._rng.choice((str(self._port), str(self._port), "80", "1")),
        }
        return operation(Operation(**self._fields(fields)))

    def _fields(self, fields: dict[str, Callable[[], str]]) -> dict[str, tuple[str, ...]]:
        """One field or two, each wanted or unwanted."""
        rng = self._rng
        return {
            rng.choice(("", "", "not_")) + name: tuple(fields[name]() for _ in range(rng.choice((1, 1, 2))))
            for name in rng.sample(sorted(fields), rng.choice((1, 1, 2)))
        }

    def _condition(self) -> AttributeCondition:
        rng, asked = self._rng, self._case.request
        namespace, _ = _parts(self._case.caller)
        told = [each for each in asked.headers if not each[0].startswith("x-forwarded-")]
        name, value = rng.choice((*told, ("x-a", "one"), ("x-c", ""), ("host", asked.authority)))
        ways: dict[str, Callable[[], str]] = {
            f"request.headers[{name}]": lambda: self._like(value.strip()),
            "source.ip": self._block,
            "remote.ip": self._block,
            "destination.ip": self._block,
            "source.namespace": lambda: self._like(namespace),
            "source.principal": lambda: self._like(self._case.caller),
            "source.serviceAccount": lambda: rng.choice(ACCOUNTS),
            "destination.port": lambda: rng.choice((str(self._port), "80")),
        }
        key = rng.choice([*ways, *[next(iter(ways))] * 6])
        values = tuple(ways[key]() for _ in range(rng.choice((1, 1, 2))))
        others = tuple(ways[key]() for _ in range(rng.choice((0, 0, 1))))
        return (
            AttributeCondition(key=key, values=values, not_values=others)
            if rng.random() < 0.7
            else (AttributeCondition(key=key, not_values=values))
        )

    def _like(self, value: str) -> str:
        """The value as it is, a part of it, something near it, or something else."""
        rng = self._rng
        if not value.isprintable() or not value or rng.random() < 0.15:
            return rng.choice(NAMES)
        cut = rng.randint(0, len(value))
        shapes = (
            value,
            value,
            value,
            f"{value[:cut]}*",
            f"*{value[cut:]}",
            "*",
            value.swapcase(),
            value.replace(".", "x"),
            value[:cut] + value[cut + 1 :],
            f"{value}x",
            f"{value}*",
        )
        found = rng.choice(shapes)
        return found if _is_writable(found) else value.replace("*", "") or "x"

    def _path(self) -> str:
        """A pattern of the path as policies see it."""
        rng = self._rng
        found = normalise(self._case.request.target)
        path = "/a/b" if isinstance(found, Verdict) else found.partition("?")[0]
        if rng.random() < 0.6:
            return self._like(path)
        segments = path.split("/")[1:]
        for index in range(len(segments)):
            if rng.random() < 0.4:
                segments[index] = "{*}"
        if rng.random() < 0.4:
            cut = rng.randint(0, len(segments))
            segments = [
                *segments[:cut],
                "{**}",
                *(each for each in segments[rng.randint(cut, len(segments)) :] if each != "{*}"),
            ]
        if not any(each in {"{*}", "{**}"} for each in segments):
            segments.append("{*}")
        return "/" + "/".join(
            "x" if set(each) & set("{}*") and each not in {"{*}", "{**}"} else each for each in segments
        )

    def _block(self) -> str:
        rng, source_ip = self._rng, self._case.source
        own = [source_ip, self._address, f"{source_ip}/{rng.choice((8, 16, 31, 32))}"]
        return rng.choice(
            (*own, *own, *(BLOCKS_6 if self._case.family == 6 else BLOCKS), rng.choice(BLOCKS_6), rng.choice(BLOCKS))
        )


def _is_writable(pattern: str) -> bool:
    """Whether its asterisk, if any, stands where one may stand."""
    inner = pattern.removeprefix("*") if pattern.startswith("*") else pattern.removesuffix("*")
    return bool(pattern) and "*" not in inner and not set(pattern) & set("{}")


def _parts(caller: str) -> tuple[str, str]:
    match caller.split("/"):
        case [_, "ns", namespace, "sa", account]:
            return namespace, account
        case _:
            return "", ""
