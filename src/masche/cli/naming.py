"""How people name resources on a command line: ``svc orders``, ``Service/orders``, ``Service/shop/orders``."""

from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from masche.cli.exits import Exit
from masche.cli.failures import Failed
from masche.model.refs import Kind, Ref

CLUSTER_SCOPED = frozenset({Kind.NAMESPACE, Kind.GATEWAY_CLASS, Kind.MESH_CONFIG})

SHORT = {
    "ns": Kind.NAMESPACE,
    "svc": Kind.SERVICE,
    "wl": Kind.WORKLOAD,
    "gc": Kind.GATEWAY_CLASS,
    "gw": Kind.GATEWAY,
    "route": Kind.HTTP_ROUTE,
    "grpcroute": Kind.GRPC_ROUTE,
    "grant": Kind.REFERENCE_GRANT,
    "authz": Kind.AUTHORIZATION_POLICY,
    "pa": Kind.PEER_AUTHENTICATION,
    "tp": Kind.TRAFFIC_POLICY,
    "rl": Kind.RATE_LIMIT_POLICY,
    "fp": Kind.FAULT_POLICY,
    "mc": Kind.MESH_CONFIG,
}


def _spellings() -> dict[str, Kind]:
    spelled = dict(SHORT)
    spelled["routes"] = Kind.HTTP_ROUTE
    for kind in Kind:
        lower = kind.lower()
        plural = f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}es" if lower.endswith("ss") else f"{lower}s"
        spelled |= {lower: kind, plural: kind}
    return spelled


def kind_of(word: str) -> Kind:
    """The kind that a word means, in any case, singular, plural or short. Raises Failed."""
    kind = _spellings().get(word.lower())
    if kind is None:
        known = ", ".join(sorted(kind.lower() for kind in Kind))
        raise Failed(f"there is no kind {word!r}", fix=f"one of {known}", code=Exit.USAGE)
    return kind


def kinds_like(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For shells: the kinds whose names begin so, and the short words for them; none where a name is to follow one."""
    before = ctx.params.get(param.name or "")
    if isinstance(before, tuple) and before and "/" not in before[0]:
        return []
    known = {kind.lower(): "" for kind in Kind} | {short: str(kind) for short, kind in SHORT.items()}
    begun = incomplete.lower()
    return [CompletionItem(word, help=said or None) for word, said in sorted(known.items()) if word.startswith(begun)]


def ref_of(kind: Kind, name: str, *, namespace: str) -> Ref:
    """Point at one resource; a cluster-scoped kind has no namespace."""
    return Ref(kind, "" if kind in CLUSTER_SCOPED else namespace, name)


def refs_of(words: Sequence[str], *, namespace: str) -> tuple[Ref, ...]:
    """``KIND NAME...`` or any number of ``KIND/NAME`` and ``KIND/NAMESPACE/NAME``. Raises Failed."""
    if words and "/" not in words[0]:
        if len(words) < 2:
            raise Failed("a kind without a name", fix="write KIND NAME or KIND/NAME", code=Exit.USAGE)
        return tuple(ref_of(kind_of(words[0]), name, namespace=namespace) for name in words[1:])
    return tuple(_slashed(word, namespace=namespace) for word in words)


def _slashed(word: str, *, namespace: str) -> Ref:
    match word.split("/"):
        case [kind, name] if name:
            return ref_of(kind_of(kind), name, namespace=namespace)
        case [kind, given, name] if given and name:
            return ref_of(kind_of(kind), name, namespace=given)
        case _:
            raise Failed(f"{word!r} names no resource", fix="write KIND/NAME or KIND/NAMESPACE/NAME", code=Exit.USAGE)
