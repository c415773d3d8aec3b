"""Small pieces that several messages are made of.

Invariant: text that people wrote is data: formatters see ``%`` doubled, regular expressions see it escaped.
"""

import re
from collections.abc import Iterable

from masche.model.refs import Origin, Ref
from masche.model.view import HeaderChange
from masche.wire.messages import Body, Json, Packed, any_of
from masche.wire.types import PREFIX

ADS: Body = {"ads": {}, "resource_api_version": "V3"}
"""Ask the agent, over the one stream there is."""

ADS_WAIT: Body = {**ADS, "initial_fetch_timeout": 0}
"""The same, for what must not be done without: wait as long as it takes."""

MILLION = 1_000_000

_EARLY = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"

INTERNAL_HEADERS = ("x-envoy-external-address", "x-envoy-internal")
"""What Envoy adds to requests and no application of a mesh has a use for."""


def extension(name: str, type_name: str, body: Body | None = None) -> Body:
    """Return a TypedExtensionConfig (or a filter, a transport socket, an access log: they are spelled alike)."""
    return {"name": name, "typed_config": any_of(type_name, body)}


def packed(type_name: str, value: bytes) -> Packed:
    """Return an Any around a message that is encoded already."""
    return Packed(PREFIX + type_name, value)


def address(host: str, port: int, namespace_path: str = "") -> Body:
    """Return a TCP address, in a network namespace when one is given."""
    socket: dict[str, Json] = {"address": host, "port_value": port}
    if namespace_path:
        socket["network_namespace_filepath"] = namespace_path
    return {"socket_address": socket}


def without_headers(*prefixes: str) -> tuple[Body, ...]:
    """Return ``early_header_mutation_extensions`` that drop request headers by their beginnings, before all else."""
    mutations: list[Body] = [
        {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}} for prefix in prefixes
    ]
    return (early(*mutations),)


def early(*mutations: Body) -> Body:
    """Return one of ``early_header_mutation_extensions``: what is done to a request's headers before all else."""
    return extension("envoy.http.early_header_mutation.header_mutation", _EARLY, {"mutations": list(mutations)})


def literal(text: str) -> str:
    """Return ``text`` for a field that is a format string: a percent sign stands for itself."""
    return text.replace("%", "%%")


def regex(pattern: str) -> Body:
    """Return a RegexMatcher; Envoy matches the whole value."""
    return {"regex": pattern}


def escaped(text: str) -> str:
    """Return a regular expression that matches exactly ``text``, in RE2's syntax as in Python's."""
    return re.escape(text)


def fraction(numerator: int, denominator: int) -> Body:
    """Return a RuntimeFractionalPercent that holds for ``numerator`` of ``denominator`` requests."""
    millionths = numerator * MILLION // denominator if denominator else 0
    return {"default_value": {"numerator": min(millionths, MILLION), "denominator": "MILLION"}}


def refs_of(origins: Iterable[Origin]) -> frozenset[Ref]:
    """Return the resources among ``origins``."""
    return frozenset(origin.ref for origin in origins)


def header_changes(request: HeaderChange, response: HeaderChange) -> dict[str, Json]:
    """Return the four fields by which a route, a weighted cluster or a virtual host changes headers."""
    fields = {
        "request_headers_to_add": _added(request),
        "request_headers_to_remove": _changeable(request.remove),
        "response_headers_to_add": _added(response),
        "response_headers_to_remove": _changeable(response.remove),
    }
    return {name: value for name, value in fields.items() if value}


def header(name: str, value: str, action: str) -> Body:
    """Return a HeaderValueOption whose value is a format string."""
    return {"header": {"key": name, "value": value}, "append_action": action, "keep_empty_value": True}


def _added(change: HeaderChange) -> list[Json]:
    return [
        header(name, literal(value), action)
        for pairs, action in ((change.set, "OVERWRITE_IF_EXISTS_OR_ADD"), (change.add, "APPEND_IF_EXISTS_OR_ADD"))
        for name, value in pairs
        if _changeable([name])
    ]


def _changeable(names: Iterable[str]) -> list[str]:
    """Leave out the authority: Envoy refuses a whole configuration that changes it as a header; routes rewrite it."""
    return [name for name in names if name.lower() != "host" and not name.startswith(":")]
