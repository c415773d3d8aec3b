"""Encode how a proxy gets what it was not given: a filter that asks for a cluster by name while the request waits, and
virtual hosts that many Services share until they are called.

A Service that no rule speaks of is routed as all of its kind are, but for the name of its cluster, which a few lines of
Lua make from the name by which it was called. Invariant: whoever has a rule of its own has a virtual host of its own,
so that nothing is ever routed in another way because it was called for the first time.
"""

from collections.abc import Iterable
from dataclasses import replace

from masche.compiler.envoy.parts import ADS, extension
from masche.model.refs import PortRef
from masche.model.view import Backend, Forward, Outbound, RequestMatch, Route
from masche.wire.messages import Body, Json, any_of

TIMEOUT = 2
"""Seconds that a request waits for its cluster; a control plane that is there answers within milliseconds."""

_NAME = "envoy.filters.http.on_demand"

FILTER: Body = extension(
    _NAME,
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    {"odcds": {"source": ADS, "timeout": TIMEOUT}},
)
"""Asks for the cluster that a request is routed to if the proxy does not have it, and lets the request wait."""

NEVER: dict[str, Json] = {_NAME: any_of("envoy.extensions.filters.http.on_demand.v3.PerRouteConfig")}
"""``typed_per_filter_config`` of a route to a cluster that never exists: Envoy asks for one once, and later requests
would wait in vain."""

CHOSEN: Body = {"cluster_specifier_plugin": "by-name"}
"""In a route, instead of a cluster: the one of whom the request is for."""

NOBODY = PortRef("", "", 0)
"""Stands for the cluster of a route that many Services share."""

_LUA = "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig"
_USUAL_PORT = 80

_BY_NAME = """
local own, bare = "{own}", {{{bare}}}
function envoy_on_route(handle)
  local host = handle:headers():get(":authority"):lower()
  local name, port = host:match("^([^:]+):(%d+)$")
  local service, namespace = (name or host):match("^([^.]+)%.?([^.]*)")
  local owner = (namespace == "" and own or namespace) .. "/" .. service
  return "outbound/" .. owner .. "/" .. (port or bare[owner] or "{usual}")
end
"""


def chooser(own: str, outbounds: Iterable[Outbound]) -> Body:
    """Return the ``cluster_specifier_plugins`` entry that knows the cluster of each of these by any of its names.

    ``own`` is the caller's namespace, which a name of one label means.
    """
    odd = {str(each.service.owner): each.service.port for each in outbounds if each.answers_bare}
    bare = ", ".join(f'["{owner}"]="{port}"' for owner, port in sorted(odd.items()) if port != _USUAL_PORT)
    code = _BY_NAME.format(own=own, bare=bare, usual=_USUAL_PORT)
    return {"extension": extension("by-name", _LUA, {"source_code": {"inline_string": code}})}


def kind_of(outbound: Outbound) -> Route | None:
    """Return the Route of an HTTP Service that no rule speaks of, without its name; None for any other.

    Those of which it is equal can share a virtual host.
    """
    if not outbound.protocol.is_http or len(outbound.routes) != 1:
        return None
    (route,) = outbound.routes
    action = route.action
    if not isinstance(action, Forward) or action.backends != (Backend(cluster=outbound.service),):
        return None
    if route.match != RequestMatch() or route.name != f"{outbound.service.owner} default":
        return None
    return replace(route, name="default", action=replace(action, backends=(Backend(cluster=NOBODY),)), origins=())
