"""Tell from the answers of one callee whether it fails as a whole: then nothing is repeated, and nobody is cut off.

Envoy limits how many repeats there are at a time, which at a few calls under way is no limit, and it cuts off whoever
failed five times in a row, which under overload is everybody by turns. What ``traffic`` decides for the library, a
budget with a throttle (``traffic.budget``, after gRFC A6) and a breaker that compares (``traffic.breaker``), is decided
here by a script between the callee and Envoy's router, where each try's answer passes before it is judged and repeated.
Only a callee has it whose answers some route repeats, for it costs each answer a few microseconds.

For each callee there is a deficit, to which a failure adds 1 and from which a success takes ratio / (1 - ratio); from
half of its capacity on failures carry ``x-envoy-ratelimited``, which no proxy repeats. And for each instance there is
how many answers it gave lately and how many of them were failures: one speaks against it, which ``x-masche-instance``
says, unless the others fail half as often at least, or fail at all while it gives as many good answers as ever. That
spares who is overloaded: whom callers choose more refuses more, and answers no less. Who has answered nothing well for
long is not spared, for there may be others in another zone that nobody has asked yet. Steering sees to it sooner; a
callee that is not steered is left to Envoy's own judgement.
Invariant: where the script breaks, Envoy judges as it does alone.
"""

from masche.compiler.envoy.parts import extension, header, literal
from masche.compiler.envoy.retries import UNREACHED
from masche.compiler.envoy.spent import SPENT
from masche.model.calling import SteeringMode
from masche.model.view import Cluster
from masche.wire.messages import Body, Json

INSTANCE = "x-masche-instance"
"""Written to each answer of a callee that is looked at so, and taken off again before anybody sees it."""

_SCRIPT = f"""
local LATELY, LEAST, TOLERANCE, TELLING, HOPELESS, IDLE, FEW, MISSED = 5, 30, 0.125, 20, 10, 60, 0.05, 4
local RARE, OF_RARE = 150, 160
local callees, instances = {{}}, {{}}

local function forget(now)
  for said, one in pairs(instances) do
    if now - one.at > IDLE then instances[said] = nil end
  end
end

local function learn(said, now)
  forget(now)
  local percent, name = string.match(said, "^(%S+) (%S+) ")
  local callee = callees[name] or {{calls = 0, faults = 0, at = now, deficit = 0}}
  callees[name] = callee
  callee.relief = percent / math.max(100 - percent, 1)
  instances[said] = {{calls = 0, faults = 0, well = now, at = now, callee = callee}}
  return instances[said]
end

local function count(one, fault, now)
  local kept = math.exp(math.min(0, one.at - now) / LATELY)
  one.calls, one.faults, one.at = one.calls * kept + 1, one.faults * kept + fault, now
end

local function owes(callee, change, passed)
  local least = callee.calls < RARE and OF_RARE or LEAST
  local capacity = math.max(least, 2 * TOLERANCE * callee.calls / LATELY)
  local left = math.max(0, callee.deficit - capacity * passed / (2 * LATELY))
  callee.deficit = math.min(capacity, math.max(0, left + change))
  return callee.deficit >= capacity / 2
end

local function is_alike(one, all, now)
  local calls, faults, silent = all.calls - one.calls, all.faults - one.faults, now - one.well
  if calls < TELLING or silent >= HOPELESS then return false end
  local good = one.calls - one.faults
  local answers = good >= 1 and silent < LATELY and silent * good < MISSED * LATELY
  return 2 * faults * one.calls >= one.faults * calls or (answers and faults > FEW * calls)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local said = headers:get("{INSTANCE}")
  if not said then return end
  local now = handle:timestamp() / 1000
  local one = instances[said] or learn(said, now)
  local callee = one.callee
  local passed = math.max(0, now - callee.at)
  local is_fault = tonumber(headers:get(":status")) >= 500
  local fault = is_fault and 1 or 0
  count(one, fault, now)
  count(callee, fault, now)
  if not is_fault then
    one.well = now
    if callee.deficit > 0 then owes(callee, -callee.relief, passed) end
    return
  end
  if not headers:get("{UNREACHED}") and owes(callee, 1, passed) then headers:replace("{SPENT}", "1") end
  if is_alike(one, callee, now) then headers:remove("{INSTANCE}") end
end
"""
"""``LATELY``: seconds after which an answer counts for a third. ``LEAST`` and ``TOLERANCE``: ``min_capacity`` and
``tolerance`` of ``traffic.budget``, whose ``ttl`` is twice ``LATELY``; ``RARE`` and ``OF_RARE``: its ``few`` and
``few_capacity``. ``TELLING``: so many answers of others say
something. ``HOPELESS``: who has answered nothing well for so many seconds is not spared. ``IDLE``: an instance that has
not answered for so many seconds is forgotten. ``FEW``: others that fail more than this share of calls fail, too.
``MISSED``: who has not given so many good answers that were to be expected does not answer as ever.
"""

_LUA = "envoy.extensions.filters.http.lua.v3.Lua"
_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
_CODEC = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"

_JUDGE = extension(
    "envoy.filters.http.lua",
    _LUA,
    {"default_source_code": {"inline_string": _SCRIPT}, "shared_vm_id": "masche"},
)
"""One memory for all callees: an Envoy of ours has one worker, and what a script costs is its interpreter."""

_AGAINST_IT: Json = {
    "http_response_headers_match": {
        "headers": [
            {"name": ":status", "string_match": {"safe_regex": {"regex": "5.."}}},
            {"name": INSTANCE, "present_match": True},
        ]
    }
}


def looked_at(source: Cluster) -> Body:
    """Return the fields of HttpProtocolOptions by which the answers of a callee are looked at; none where nothing of
    it is repeated.
    """
    if not source.is_repeated:
        return {}
    said = f"{source.traffic.budget.percent:g} {literal(source.service.path)} %UPSTREAM_HOST%"
    mutation: Body = {"response_mutations": [{"append": header(INSTANCE, said, "OVERWRITE_IF_EXISTS_OR_ADD")}]}
    filters: list[Json] = [
        # An answer comes through these from the last to the first.
        _JUDGE,
        extension("envoy.filters.http.header_mutation", _MUTATION, {"mutations": mutation}),
        extension("envoy.filters.http.upstream_codec", _CODEC),
    ]
    is_steered = source.traffic.steering is SteeringMode.ON
    return {"http_filters": filters, **({"outlier_detection": {"error_matcher": _AGAINST_IT}} if is_steered else {})}
