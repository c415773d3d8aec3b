"""Tell whoever calls us that repeats are spent: what was repeated in vain is not to be repeated again one tier up.

The word is Envoy's own, ``x-envoy-ratelimited``: no Envoy repeats an answer that carries it. A proxy adds it to an
answer after its last repeat, or when its budget or a limit forbade one; an application that hands it on with its own
answer ends the matter there. Invariant: an answer that needed no repeat never carries it by our doing.
"""

from masche.compiler.envoy.parts import extension
from masche.wire.messages import Body, any_of

SPENT = "x-envoy-ratelimited"
"""The header. Who relays answers relays it; who makes answers of its own may set it."""

_NAME = "envoy.filters.http.header_mutation"
_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
_PER_ROUTE = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"

FILTER: Body = {**extension(_NAME, _MUTATION, {"mutations": {}}), "disabled": True}
"""Sleeps until a route asks for it: even a filter that does nothing costs every request."""

_VALUE = "%CEL(response.flags == 0 ? '' : '1')%"
"""Of an answer that came from an instance the flags say that no repeat was left, or that a limit forbade one."""


def _said(value: str) -> Body:
    return {"header": {"key": SPENT, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


_SAID: Body = {"response_mutations": [{"append": _said(_VALUE)}]}

ASKED: Body = {_NAME: any_of(_PER_ROUTE, {"mutations": _SAID})}
"""``typed_per_filter_config`` of a route that repeats answers, on which something of this can be seen at all."""

REPLY: Body = {"filter": {"response_flag_filter": {"flags": ["URX", "UO"]}}, "headers_to_add": [_said("1")]}
"""The same of answers that are the proxy's own."""
