"""The rules of the Gateway API that connect the fields of a route, in the words of its own schema.

Where a rule is quoted, the quotation marks hold the message of the CRD's validation (gateway.networking.k8s.io, v1.5
with the experimental channel). What a route may say and masche does not do yet is a finding ``not-carried-out``.
"""

import re
from collections.abc import Mapping

from masche.model.regex import problem
from masche.model.resources.references import GROUP
from masche.model.spot import Finding, Findings, Spot, distinct, duplicates
from masche.model.validate_durations import length

HTTP_FILTERS = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "CORS": "cors",
    "ExternalAuth": "externalAuth",
    "ExtensionRef": "extensionRef",
}
GRPC_FILTERS = {
    name: HTTP_FILTERS[name]
    for name in ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef")
}
_REPEATABLE = {"RequestMirror", "ExtensionRef", "ExternalAuth"}
_BACKEND_FILTERS = {"RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "RequestMirror", "URLRewrite"}
_PATH_TYPES = "when type one of ['Exact', 'PathPrefix']"
_PATH_CHARACTERS = "^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$"
_SERVICE_CHARACTERS = r"^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$"
_METHOD_CHARACTERS = "^[A-Za-z_][A-Za-z_0-9]*$"
_SAME_PARENT = "when parentRefs includes 2 or more references to the same parent"


def http_route(route: Spot) -> Findings:
    """Everything about one HTTPRoute."""
    spec = route["spec"]
    yield from parents(spec["parentRefs"])
    yield from _rules(spec["rules"])
    for rule in spec["rules"]:
        yield from _http_rule(rule)


def grpc_route(route: Spot) -> Findings:
    """Everything about one GRPCRoute."""
    spec = route["spec"]
    yield from parents(spec["parentRefs"])
    yield from _rules(spec["rules"])
    for rule in spec["rules"]:
        for match in rule["matches"]:
            yield from _grpc_method(match["method"])
            yield from distinct(match["headers"], "name")
            for header in match["headers"]:
                yield from _regex(header["value"], header["type"].text("Exact"))
        yield from _filters(rule["filters"], GRPC_FILTERS)
        yield from _session(rule["sessionPersistence"])
        for backend in rule["backendRefs"]:
            yield from _backend(backend)
            yield from _filters(backend["filters"], GRPC_FILTERS)


def stream_route(route: Spot) -> Findings:
    """Everything about one TCPRoute or TLSRoute."""
    yield from parents(route["spec"]["parentRefs"])
    yield from _rule_names(route["spec"]["rules"])
    for rule in route["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            yield from _backend(backend)
    for hostname in route["spec"]["hostnames"]:
        if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", hostname.text()):
            yield hostname.invalid('"Hostnames cannot contain an IP"', "write a DNS name", code="invalid-value")


# --------------------------------------------------------------------------------------------------------- parents


def parents(refs: Spot) -> Findings:
    """ "ParentRefs must be _distinct_" (CommonRouteSpec), and be Gateways or Services."""
    seen: dict[object, list[Spot]] = {}
    for ref in refs:
        kind = (ref["group"].text(GROUP), ref["kind"].text("Gateway"))
        if kind not in {(GROUP, "Gateway"), ("", "Service")}:
            yield _strange_parent(ref, *kind)
        seen.setdefault((*kind, ref["namespace"].text(), ref["name"].text()), []).append(ref)
    for same in seen.values():
        yield from _same_parent(same)


def _strange_parent(ref: Spot, group: str, kind: str) -> Finding:
    if kind == "Service" and group == GROUP:
        return ref.not_carried_out(f'a parent of kind Service in the group "{group}"', 'write group: "" for a Service')
    return ref.not_carried_out(f'a parent of kind {kind} in the group "{group}"', "name a Gateway or a Service")


def _same_parent(refs: list[Spot]) -> Findings:
    parts = [(ref["sectionName"].text(), ref["port"].number() or 0) for ref in refs]
    for ref, (section, port) in zip(refs[1:], parts[1:], strict=True):
        if bool(section) != bool(parts[0][0]) or bool(port) != bool(parts[0][1]):
            yield ref.invalid(_parent_rule("specified"), "give each reference to this parent the same optional fields")
    for ref, _ in duplicates(iter(refs), lambda ref: (ref["sectionName"].text(), ref["port"].number() or 0)):
        fix = "remove one of the two, or tell them apart by sectionName or port"
        yield ref.invalid(_parent_rule("unique"), fix, code="invalid-duplicate")


def _parent_rule(adjective: str) -> str:
    """The rule in the words of both channels."""
    return " / ".join(f'"{what} must be {adjective} {_SAME_PARENT}"' for what in ("sectionName or port", "sectionName"))


# ----------------------------------------------------------------------------------------------------------- rules


def _rules(rules: Spot) -> Findings:
    yield from _rule_names(rules)
    if sum(rule["matches"].length for rule in rules) > 128:
        yield rules.invalid(
            '"While 16 rules and 64 matches per rule are allowed, the total number of matches across all rules in a '
            'route must be less than 128"',
            "split the route",
            code="invalid-value",
        )


def _rule_names(rules: Spot) -> Findings:
    for rule, name in duplicates(iter(rules), lambda rule: rule["name"].text()):
        why = f'"Rule name must be unique within the route": {name}'
        yield rule["name"].invalid(why, "rename one of the rules", code="invalid-duplicate")


def _http_rule(rule: Spot) -> Findings:
    for match in rule["matches"]:
        yield from http_match(match)
    yield from _filters(rule["filters"], HTTP_FILTERS)
    yield from _redirect_excludes_backends(rule)
    yield from _prefix_replacements(rule)
    yield from _timeouts(rule["timeouts"])
    yield from distinct(rule["retry"]["codes"])
    yield from _session(rule["sessionPersistence"])
    for backend in rule["backendRefs"]:
        yield from _backend(backend)
        yield from _filters(backend["filters"], HTTP_FILTERS)
        yield from _backend_filters(backend["filters"])


def _redirect_excludes_backends(rule: Spot) -> Findings:
    if rule["backendRefs"].length and any(item.has("requestRedirect") for item in rule["filters"]):
        yield rule["backendRefs"].invalid(
            '"RequestRedirect filter must not be used together with backendRefs"',
            "remove the filter or the backendRefs",
        )


def _prefix_replacements(rule: Spot) -> Findings:
    """ "exactly one PathPrefix match must be specified" wherever a filter replaces the matched prefix."""
    if _has_one_prefix_match(rule):
        return
    for item in rule["filters"]:
        yield from _prefix_replacement(item, "When using {} filter", "When using {} filter")
    for backend in rule["backendRefs"]:
        for item in backend["filters"]:
            redirect, rewrite = "Within backendRefs, when using {} filter", "Within backendRefs, When using {} filter"
            yield from _prefix_replacement(item, redirect, rewrite)


def _prefix_replacement(item: Spot, redirect: str, rewrite: str) -> Findings:
    for name, field, beginning in (
        ("RequestRedirect", "requestRedirect", redirect),
        ("URLRewrite", "urlRewrite", rewrite),
    ):
        path = item[field]["path"]
        if path["type"].text() == "ReplacePrefixMatch" and path.has("replacePrefixMatch"):
            end = "with path.replacePrefixMatch, exactly one PathPrefix match must be specified"
            why = f'"{beginning.format(name)} {end}"'
            yield path.invalid(why, "give the rule exactly one match, of type PathPrefix")


def _has_one_prefix_match(rule: Spot) -> bool:
    if not rule.has("matches"):
        return True
    matches = list(rule["matches"])
    return len(matches) == 1 and matches[0]["path"]["type"].text("PathPrefix") == "PathPrefix"


def _timeouts(timeouts: Spot) -> Findings:
    request, backend = length(timeouts["request"]), length(timeouts["backendRequest"])
    if request and backend is not None and backend > request:
        yield timeouts["backendRequest"].invalid(
            '"backendRequest timeout cannot be longer than request timeout"',
            "shorten timeouts.backendRequest or lengthen timeouts.request",
        )


def _session(session: Spot) -> Findings:
    cookie = session["cookieConfig"]
    if cookie["lifetimeType"].text() == "Permanent" and not session.has("absoluteTimeout"):
        why = '"AbsoluteTimeout must be specified when cookie lifetimeType is Permanent"'
        yield session.invalid(why, "add absoluteTimeout")
    if cookie.is_there and session["type"].text("Cookie") != "Cookie":
        yield cookie.invalid('"cookieConfig can only be set with type Cookie"', "remove cookieConfig")
    if session.is_there:
        fix = "remove it; a TrafficPolicy with a consistent hash (RingHash, Maglev) keeps a client at one instance"
        yield session.not_carried_out("sessionPersistence", fix)


# --------------------------------------------------------------------------------------------------------- matches


def http_match(match: Spot) -> Findings:
    """Everything about one match of a request."""
    yield from _path(match["path"])
    if match["method"].text() == "CONNECT":
        yield match["method"].not_carried_out("matching the method CONNECT", "remove the match")
    for field in ("headers", "queryParams"):
        yield from distinct(match[field], "name")
        for item in match[field]:
            yield from _regex(item["value"], item["type"].text("Exact"))
    yield from _equivalent(match["headers"], "keep one match per header name; case does not tell them apart")


def _equivalent(headers: Spot, fix: str) -> Findings:
    """Names that differ by case alone: what stands later is not heard."""
    names = {item["name"].text() for item in headers}
    for item, name in duplicates(iter(headers), lambda item: item["name"].text().lower()):
        if len({written for written in names if written.lower() == name}) > 1:
            why = '"Subsequent entries with an equivalent header name MUST be ignored"'
            yield item.ignored(why, fix)


def _path(path: Spot) -> Findings:
    kind, value = path["type"].text("PathPrefix"), path["value"].text("/")
    if kind == "RegularExpression":
        yield from _regex(path["value"], kind)
    if kind not in {"Exact", "PathPrefix"}:
        return
    for why, fix in _path_problems(value):
        yield path["value"].invalid(f'"{why}"', fix, code="invalid-value")


def _path_problems(value: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if not value.startswith("/"):
        found.append((f"value must be an absolute path and start with '/' {_PATH_TYPES}", "begin it with /"))
    for part in ("//", "/./", "/../", "%2f", "%2F", "#"):
        if part in value:
            found.append((f"must not contain '{part}' {_PATH_TYPES}", f"remove {part}"))
    for end in ("/..", "/."):
        if value.endswith(end):
            found.append((f"must not end with '{end}' {_PATH_TYPES}", f"remove the trailing {end}"))
    if not re.fullmatch(_PATH_CHARACTERS[1:-1], value):
        why = f"must only contain valid characters (matching {_PATH_CHARACTERS}) for types ['Exact', 'PathPrefix']"
        found.append((why, "percent-encode other characters"))
    return found


def _regex(value: Spot, kind: str) -> Findings:
    if kind == "RegularExpression" and (why := problem(value.text())):
        yield value.invalid(
            why, "write a regular expression of RE2 (no lookaround, no backreferences)", code="invalid-regex"
        )


def _grpc_method(method: Spot) -> Findings:
    if not method.is_there:
        return
    if not method.has("service") and not method.has("method"):
        yield method.invalid("\"One or both of 'service' or 'method' must be specified\"", "add service or method")
    if method["type"].text("Exact") != "Exact":
        yield from _regex(method["service"], method["type"].text())
        yield from _regex(method["method"], method["type"].text())
        return
    service, name = method["service"], method["method"]
    if service.is_there and not re.fullmatch(_SERVICE_CHARACTERS[5:-1], service.text(), re.IGNORECASE | re.ASCII):
        why = f'"service must only contain valid characters (matching {_SERVICE_CHARACTERS})"'
        yield service.invalid(why, "write package.Service, or type: RegularExpression", code="invalid-value")
    if name.is_there and not re.fullmatch(_METHOD_CHARACTERS[1:-1], name.text(), re.ASCII):
        why = f'"method must only contain valid characters (matching {_METHOD_CHARACTERS})"'
        yield name.invalid(why, "write the method's name, or type: RegularExpression", code="invalid-value")


# -------------------------------------------------------------------------------------------------------- backends


def _backend(backend: Spot) -> Findings:
    if not isinstance(backend.value, dict):
        return
    group, kind = backend["group"].text(), backend["kind"].text("Service")
    if (group, kind) != ("", "Service"):
        why = f'backends of kind {kind} in the group "{group}" are unknown here, so its share of requests gets a 500'
        yield backend.ignored(why, "name a Service")
    elif not backend.has("port"):
        yield backend.invalid(
            '"Must have port for Service reference"', "add the Service's port", code="invalid-missing"
        )


def _backend_filters(filters: Spot) -> Findings:
    for item in filters:
        kind = item["type"].text()
        if kind in HTTP_FILTERS and kind not in _BACKEND_FILTERS and kind not in {"ExtensionRef", "ExternalAuth"}:
            yield item.not_carried_out(f"a {kind} filter of one backend", "write it into the filters of the rule")


# --------------------------------------------------------------------------------------------------------- filters


def _filters(filters: Spot, known: Mapping[str, str]) -> Findings:
    for item, name in duplicates(iter(filters), lambda item: item["type"].text()):
        if name in known and name not in _REPEATABLE:
            yield item.invalid(f'"{name} filter cannot be repeated"', "join the two filters", code="invalid-duplicate")
    kinds = {item["type"].text() for item in filters}
    if kinds >= {"RequestRedirect", "URLRewrite"}:
        yield filters.invalid(
            '"May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both"',
            "a redirect never reaches a backend: keep one of the two",
        )
    for item in filters:
        yield from _filter(item, known)


def _filter(item: Spot, known: Mapping[str, str]) -> Findings:
    kind = item["type"].text()
    for name, field in known.items():
        if item.has(field) and kind and kind != name:
            why = f'"filter.{field} must be nil if the filter.type is not {name}"'
            yield item[field].invalid(why, f"remove {field}, or write type: {name}")
        if not item.has(field) and kind == name:
            why = f'"filter.{field} must be specified for {name} filter.type"'
            yield item.invalid(why, f"add {field}", code="invalid-missing")
    yield from _headers(item["requestHeaderModifier"])
    yield from _headers(item["responseHeaderModifier"])
    yield from _mirror(item["requestMirror"])
    yield from _path_modifier(item["requestRedirect"]["path"])
    yield from _path_modifier(item["urlRewrite"]["path"])
    yield from _cors(item["cors"])
    yield from _external_auth(item["externalAuth"])
    if kind in {"ExtensionRef", "ExternalAuth"}:
        yield item.not_carried_out(f"an {kind} filter", "remove it")


def _headers(change: Spot) -> Findings:
    yield from distinct(change["set"], "name")
    yield from distinct(change["add"], "name")
    yield from distinct(change["remove"])
    for field in ("set", "add"):
        yield from _equivalent(
            change[field], f"keep one entry of {field} per header name; case does not tell them apart"
        )
    named = [item["name"] for field in ("set", "add") for item in change[field]]
    for name in [*named, *change["remove"]]:
        if name.text().lower() == "host":
            yield name.not_carried_out("changing Host as a header", "use a URLRewrite filter with hostname")
    for name in change["remove"]:
        if name.text().startswith(":") or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+", name.text("-")):
            yield name.not_carried_out(
                f"removing {name.text()[:80]!r}, which is no header name,", "write a header's name"
            )


def _mirror(mirror: Spot) -> Findings:
    if mirror.has("percent") and mirror.has("fraction"):
        why = '"Only one of percent or fraction may be specified in HTTPRequestMirrorFilter"'
        yield mirror.invalid(why, "keep percent or fraction")
    fraction = mirror["fraction"]
    numerator, denominator = fraction["numerator"].number(), fraction["denominator"].number()
    if numerator is not None and numerator > (100 if denominator is None else denominator):
        yield fraction.invalid('"numerator must be less than or equal to denominator"', "lower the numerator")
    if mirror.is_there:
        yield from _backend(mirror["backendRef"])


def _path_modifier(path: Spot) -> Findings:
    kind = path["type"].text()
    for name, field in (("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")):
        if kind == name and not path.has(field):
            yield path.invalid(f"\"{field} must be specified when type is set to '{name}'\"", f"add {field}")
        if path.has(field) and kind != name:
            yield path.invalid(
                f"\"type must be '{name}' when {field} is set\"", f"remove {field}, or write type: {name}"
            )


def _cors(cors: Spot) -> Findings:
    for field, others in (("allowOrigins", "origins"), ("allowMethods", "methods"), ("allowHeaders", "methods")):
        values = [item.value for item in cors[field]]
        if "*" in values and len(values) > 1:
            title = field[0].upper() + field[1:]
            why = f"\"{title} cannot contain '*' alongside other {others}\""
            yield cors[field].invalid(why, "keep '*' or the others")
    for field in ("allowOrigins", "allowMethods", "allowHeaders", "exposeHeaders"):
        yield from distinct(cors[field])


def _external_auth(auth: Spot) -> Findings:
    protocol = auth["protocol"].text()
    for name, field in (("GRPC", "grpc"), ("HTTP", "http")):
        if protocol == name and not auth.has(field):
            yield auth.invalid(f"\"{field} must be specified when protocol is set to '{name}'\"", f"add {field}")
        if auth.has(field) and protocol != name:
            yield auth.invalid(
                f"\"protocol must be '{name}' when {field} is set\"", f"remove {field}, or set the protocol"
            )
