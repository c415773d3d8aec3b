"""Decode what a route does: send on, redirect, answer.

Invariant: a way of choosing a cluster that is not known here is refused, never guessed.
"""

from functools import lru_cache
from typing import Any

from masche.model.refs import ForeignRef, PortRef
from masche.model.told import INVALID, TUNNELS
from masche.model.view import Backend, Forward, Mirror, PathRewrite, Redirect, Refuse, Retry, RewriteKind
from masche.wire.decode import filters
from masche.wire.decode.headers import CHANGES, request_and_response
from masche.wire.decode.paths import path_rewrite
from masche.wire.decode.reading import message_of, only, runtime_fraction, seconds_or, value_or
from masche.wire.decode.repeats import NEVER, hashed, retry
from masche.wire.framing import WireError

_ACTION = frozenset(
    {
        "cluster", "weighted_clusters", "cluster_not_found_response_code", "prefix_rewrite", "regex_rewrite",
        "host_rewrite_literal", "timeout", "idle_timeout", "retry_policy", "request_mirror_policies", "hash_policy",
        "max_stream_duration", "upgrade_configs", "hedge_policy", "rate_limits", "include_vh_rate_limits",
    }
)  # fmt: skip
_RETRY_NAME = "envoy.config.route.v3.RetryPolicy"
_TIMEOUT, _IDLE = 15.0, 300.0
"""Envoy's, where a table says nothing."""

_ABSENT = {0: 503, 1: 404, 2: 500}
"""``ClusterNotFoundResponseCode``."""

NO_TUNNEL = "it speaks HTTP: ask it by http://, for the library opens no tunnel to what it can call itself"


def forward(message: Any, host: Any, where: str) -> Forward | Refuse:
    """Return what a RouteAction does; ``host`` is the virtual host, whose policies hold where the route has none."""
    only(message, where, _ACTION)
    absent = _ABSENT.get(message.cluster_not_found_response_code)
    if absent is None:
        raise WireError(f"{where}.cluster_not_found_response_code is not known here")
    if _is_tunnel(message, where):
        return _tunnel(_backends(message, where, is_lacking=absent == _ABSENT[2]), absent)
    repeats, per_try = _repeats(message, host, where)
    hedge_after = per_try if _is_hedged(message, host, where) else 0.0
    idle, one = seconds_or(message, "idle_timeout", _IDLE, where), 0.0 if hedge_after else per_try
    return Forward(
        backends=_backends(message, where, is_lacking=absent == _ABSENT[2]),
        host_rewrite=message.host_rewrite_literal,
        path_rewrite=path_rewrite(message, where),
        mirrors=tuple(mirror(each, f"{where}.request_mirror_policies") for each in message.request_mirror_policies),
        timeout=_timeout(message, where),
        per_try_timeout=one,
        stream_timeout=one,
        idle_timeout=idle,
        stream_idle_timeout=idle,
        hedge_after=hedge_after,
        retry=repeats,
        hashes=tuple(hashed(each, f"{where}.hash_policy[{index}]") for index, each in enumerate(message.hash_policy)),
        absent_status=absent,
    )


def _tunnel(backends: tuple[Backend, ...], absent: int) -> Forward | Refuse:
    """Bytes that are sent on. A connection that cannot be made is tried at two other instances, as proxies do it
    (``max_connect_attempts``), and who talks by it decides how long it lasts.
    """
    if any(each.cluster is not None and each.cluster.path == TUNNELS for each in backends):
        return Refuse(status=405, why=NO_TUNNEL)
    return Forward(backends=backends, retry=Retry(attempts=2), absent_status=absent)


def _is_tunnel(message: Any, where: str) -> bool:
    """Whether the bytes of a CONNECT are to be sent on. Other protocols that may be asked for pass as they are."""
    for each in message.upgrade_configs:
        only(each, f"{where}.upgrade_configs", {"upgrade_type", "enabled", "connect_config"})
        if not value_or(each, "enabled", default=True):
            raise WireError(f"{where}.upgrade_configs: to forbid {each.upgrade_type} is not carried out here")
    return any(each.HasField("connect_config") for each in message.upgrade_configs)


def _timeout(message: Any, where: str) -> float:
    """Seconds; gRFC A31 limits streams by ``max_stream_duration``, which wins where both would."""
    said = seconds_or(message, "timeout", _TIMEOUT, where)
    if not message.HasField("max_stream_duration"):
        return said
    limits, place = message.max_stream_duration, f"{where}.max_stream_duration"
    only(limits, place, {"max_stream_duration", "grpc_timeout_header_max", "grpc_timeout_header_offset"})
    longest = seconds_or(limits, "max_stream_duration", 0.0, place)
    longest = seconds_or(limits, "grpc_timeout_header_max", longest, place)
    both = [each for each in ((said if message.HasField("timeout") else 0.0), longest) if each]
    return min(both, default=0.0)


def _repeats(message: Any, host: Any, where: str) -> tuple[Retry, float]:
    for owner, place in ((message, where), (host, f"{where} (of the virtual host)")):
        if owner.HasField("retry_policy"):
            try:
                return _known_retry(owner.retry_policy.SerializeToString())
            except WireError as error:
                raise WireError(f"{place}: {error}") from error
    return NEVER, 0.0


@lru_cache(maxsize=4_096)
def _known_retry(encoded: bytes) -> tuple[Retry, float]:
    return retry(message_of(_RETRY_NAME, encoded), "retry_policy")


def _is_hedged(message: Any, host: Any, where: str) -> bool:
    owner = message if message.HasField("hedge_policy") else host
    if not owner.HasField("hedge_policy"):
        return False
    only(owner.hedge_policy, f"{where}.hedge_policy", {"hedge_on_per_try_timeout", "initial_requests"})
    if value_or(owner.hedge_policy, "initial_requests", 1) != 1:
        raise WireError(f"{where}.hedge_policy: to begin with several requests is not carried out here")
    return owner.hedge_policy.hedge_on_per_try_timeout


def _backends(message: Any, where: str, *, is_lacking: bool) -> tuple[Backend, ...]:
    match message.WhichOneof("cluster_specifier"):
        case "cluster":
            return (Backend(cluster=_cluster(message.cluster, where, is_lacking=is_lacking)),)
        case "weighted_clusters":
            return _weighted(message.weighted_clusters, f"{where}.weighted_clusters", is_lacking=is_lacking)
        case other:
            raise WireError(f"{where}: {other or 'a route to nowhere'} is not carried out here")


def _cluster(name: str, where: str, *, is_lacking: bool) -> PortRef | None:
    """A name; None is the cluster that never exists, in a table that says what is answered then."""
    if not name:
        raise WireError(f"{where} names no cluster")
    return None if is_lacking and name == INVALID else ForeignRef.named(name)


def _weighted(message: Any, where: str, *, is_lacking: bool) -> tuple[Backend, ...]:
    """gRFC A28: the weights must not all be zero."""
    only(message, where, {"clusters", "total_weight", "runtime_key_prefix"})
    backends = tuple(
        _backend(each, f"{where}[{index}]", is_lacking=is_lacking) for index, each in enumerate(message.clusters)
    )
    total = sum(each.weight for each in backends)
    if not 0 < total < 2**32 or value_or(message, "total_weight", total) != total:
        raise WireError(f"{where}: the weights come to {total}")
    return backends


_WEIGHT = CHANGES | {"name", "weight", "host_rewrite_literal", "typed_per_filter_config"}


def _backend(message: Any, where: str, *, is_lacking: bool) -> Backend:
    only(message, where, _WEIGHT)
    if filters.told((message,), filters.FAULT, where) is not None:
        raise WireError(f"{where}: trouble for a share of the requests alone is not carried out here")
    asked, told = request_and_response(message, where)
    return Backend(
        cluster=_cluster(message.name, where, is_lacking=is_lacking),
        weight=value_or(message, "weight", 0),
        request_headers=asked,
        response_headers=told,
        host_rewrite=message.host_rewrite_literal,
    )


def mirror(message: Any, where: str) -> Mirror:
    """Return who gets a copy; whether its authority is marked as a copy's is not our choice: it never is."""
    only(message, where, {"cluster", "runtime_fraction", "disable_shadow_host_suffix_append", "trace_sampled"})
    if not message.cluster:
        raise WireError(f"{where} names no cluster")
    share = (100, 100)
    if message.HasField("runtime_fraction"):
        share = runtime_fraction(message.runtime_fraction, f"{where}.runtime_fraction")
    return Mirror(cluster=ForeignRef.named(message.cluster), numerator=share[0], denominator=share[1])


_REDIRECT = frozenset(
    {
        "https_redirect", "scheme_redirect", "host_redirect", "port_redirect", "path_redirect", "prefix_rewrite",
        "regex_rewrite", "response_code", "strip_query",
    }
)  # fmt: skip
_STATUSES = {0: 301, 1: 302, 2: 303, 3: 307, 4: 308}


def redirect(message: Any, where: str) -> Redirect:
    """Return what a RedirectAction answers."""
    only(message, where, _REDIRECT)
    if message.response_code not in _STATUSES:
        raise WireError(f"{where}.response_code is not known here")
    return Redirect(
        status=_STATUSES[message.response_code],
        scheme=message.scheme_redirect or ("https" if message.https_redirect else ""),
        host=message.host_redirect,
        port=message.port_redirect,
        path=_redirected(message, where),
        keeps_port=True,
        strips_query=message.strip_query,
    )


def _redirected(message: Any, where: str) -> PathRewrite | None:
    if message.path_redirect:
        return PathRewrite(kind=RewriteKind.FULL, value=message.path_redirect)
    return path_rewrite(message, where)


def answer(message: Any, where: str) -> Refuse:
    """Return what a DirectResponseAction answers; a body that is a file of another host is none."""
    only(message, where, {"status", "body"})
    if not 200 <= message.status < 600:
        raise WireError(f"{where}: {message.status} is no status of an answer")
    only(message.body, f"{where}.body", {"inline_string", "inline_bytes"})
    text = message.body.inline_string or message.body.inline_bytes.decode("utf-8", "replace")
    return Refuse(status=message.status, why=text.removesuffix("\n"))
