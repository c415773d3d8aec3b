"""The rules of Istio's AuthorizationPolicy and PeerAuthentication that connect their fields.

Where a rule is quoted, the quotation marks hold Istio's own words. A policy that masche cannot carry out to the letter
is refused: a rule that is ignored would allow what its author forbade.
"""

import re
from ipaddress import ip_network

from masche.model.resources.references import GROUP
from masche.model.spot import Findings, Spot

_SOURCE_FIELDS = ("principals", "requestPrincipals", "namespaces", "serviceAccounts", "ipBlocks", "remoteIpBlocks")
_OPERATION_FIELDS = ("hosts", "ports", "methods", "paths")
_TCP_SOURCES = ("principals", "namespaces", "serviceAccounts", "ipBlocks", "remoteIpBlocks")
_PLAIN_KEYS = {
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "remote.ip",
    "destination.ip",
    "destination.port",
    "connection.sni",
}
_HEADER_KEY = re.compile(r"request\.headers\[([^\[\]]+)\]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}")
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_ACCOUNT = re.compile(rf"({_LABEL}/)?{_LABEL}(\.{_LABEL})*")
_TARGETS = {("", "Service"), (GROUP, "Gateway")}
_HTTP_ONLY = (
    '"configured AuthorizationPolicy will deny all traffic to TCP ports under its scope due to the use of only HTTP '
    'attributes in a DENY rule; it is recommended to explicitly specify the port"'
)
_NO_SNI = (
    "inside the mesh no caller names a server (SNI), so that nobody on the way learns which service is called: only at "
    "a Gateway's listener of TLS is there a name to compare"
)


def authorization_policy(policy: Spot) -> Findings:
    """Everything about one AuthorizationPolicy."""
    spec = policy["spec"]
    yield from scope(spec)
    action = spec["action"].text("ALLOW")
    if action in {"AUDIT", "CUSTOM"}:
        yield spec["action"].not_carried_out(f"the action {action}", "use ALLOW or DENY")
    if action == "DENY" and not spec["rules"].length:
        why = '"DENY action without `rules` is meaningless as it will never be triggered"'
        yield spec.invalid(why, "add an empty rule {} if you want it to be triggered for every request")
    for rule in spec["rules"]:
        yield from _rule(rule)
        if action == "DENY" and _sees_only_http(rule):
            yield rule.ignored(_HTTP_ONLY, "add to[].operation.ports")


def peer_authentication(peer: Spot) -> Findings:
    """Everything about one PeerAuthentication."""
    spec = peer["spec"]
    yield from _selector(spec["selector"])
    ports = spec["portLevelMtls"]
    if ports.is_there and not ports.is_empty and not spec["selector"]["matchLabels"].value:
        yield ports.invalid('"portLevelMtls requires selector"', "add selector.matchLabels")
    if ports.is_empty:
        why = '"spec.portLevelMtls in body should have at least 1 properties"'
        yield ports.invalid(why, "add a port or remove portLevelMtls", code="invalid-value")
    for name, port in ports.entries():
        if name.isdecimal() and not 1 <= int(name[:9]) <= 65535:
            yield port.invalid('"port must be between 1-65535"', "write the application's port", code="invalid-value")


# ----------------------------------------------------------------------------------------------------------- scope


def scope(spec: Spot) -> Findings:
    """Which workloads a policy is about: those with some labels, or those behind its targets, never both."""
    yield from _selector(spec["selector"])
    if spec.has("selector") and spec["targetRefs"].length:
        why = '"only one of targetRefs or selector can be set"'
        yield spec["targetRefs"].invalid(why, "keep the selector or the targetRefs")
    for target in spec["targetRefs"]:
        kind = (target["group"].text(), target["kind"].text())
        if target.has("kind") and kind not in _TARGETS:
            fix = f'name a Service (group: "") or a Gateway (group: {GROUP})'
            yield target.not_carried_out(f'a target of kind {kind[1]} in the group "{kind[0]}"', fix)
        if target["namespace"].text():
            why = '"cross namespace referencing is not currently supported"'
            yield target["namespace"].invalid(why, "remove it and write the policy into that namespace")


def _selector(selector: Spot) -> Findings:
    labels = selector["matchLabels"]
    for key, value in labels.entries():
        if "*" in key or "*" in value.text():
            yield value.invalid(
                '"wildcard not allowed in label value match"', "write the label out", code="invalid-value"
            )
    if selector.is_there and not labels.value:
        why = '"workload selector specified without labels", so it selects every workload of the namespace'
        yield selector.ignored(why, "add matchLabels, or remove the selector")


# ----------------------------------------------------------------------------------------------------------- rules


def _rule(rule: Spot) -> Findings:
    for field in ("from", "to"):
        if rule[field].is_empty:
            why = f'"`{field}` must not be empty"'
            yield rule[field].invalid(why, f"add an entry, or remove {field} to mean any", code="invalid-value")
    for item in rule["from"]:
        if item.has("source"):
            yield from _source(item["source"])
    for item in rule["to"]:
        if item.has("operation"):
            yield from _operation(item["operation"])
    for condition in rule["when"]:
        yield from _condition(condition)


def _both(spot: Spot, *fields: str) -> list[Spot]:
    """The fields and their ``not`` twins."""
    return [spot[name] for field in fields for name in (field, f"not{field[0].upper()}{field[1:]}")]


def _source(source: Spot) -> Findings:
    if not any(field.length for field in _both(source, *_SOURCE_FIELDS)):
        yield source.invalid('"`from.source` must not be empty"', "add a field, or remove `from` to mean any source")
    accounts = [field for field in _both(source, "serviceAccounts") if field.length]
    others = [field for field in _both(source, "principals", "namespaces") if field.length]
    if accounts and others:
        why = '"Cannot set serviceAccounts with namespaces or principals"'
        yield accounts[0].invalid(why, "keep serviceAccounts, or namespaces and principals")
    for field in _both(source, "ipBlocks", "remoteIpBlocks"):
        for item in field:
            yield from _network(item)
    for field in _both(source, "serviceAccounts"):
        for item in field:
            yield from _account(item)
    for field in _both(source, "principals", "namespaces"):
        for item in field:
            yield from _wildcard(item)
    for field in _both(source, "requestPrincipals"):
        if field.is_there:
            yield field.not_carried_out("matching identities of JSON Web Tokens", "remove it")


def _operation(operation: Spot) -> Findings:
    if not any(field.length for field in _both(operation, *_OPERATION_FIELDS)):
        yield operation.invalid(
            '"`to.operation` must not be empty"', "add a field, or remove `to` to mean any operation"
        )
    for field in _both(operation, "ports"):
        for item in field:
            yield from _port(item)
    for field in _both(operation, "hosts", "methods"):
        for item in field:
            yield from _wildcard(item)
    for field in _both(operation, "paths"):
        for item in field:
            yield from _path(item)


def _condition(condition: Spot) -> Findings:
    key = condition["key"].text()
    if condition.has("key") and not key:
        yield condition["key"].invalid('"`key` must not be empty"', "name an attribute", code="invalid-value")
    if not condition["values"].length and not condition["notValues"].length:
        why = f'"at least one of `values` or `notValues` must be set for key {key[:80]}"'
        yield condition.invalid(why, "add values or notValues", code="invalid-missing")
    if key.startswith("request.auth."):
        yield condition["key"].not_carried_out("matching JSON Web Tokens", "remove the condition")
    elif key.startswith("experimental."):
        yield condition["key"].not_carried_out(f"the attribute {key[:80]}", "remove the condition")
    elif key and key not in _PLAIN_KEYS and not _is_header(key):
        known = ", ".join(sorted(_PLAIN_KEYS))
        why = f'"unknown attribute: {key[:80]}"'
        yield condition["key"].invalid(why, f"use one of {known}, request.headers[NAME]", code="invalid-value")
    if key == "connection.sni":
        yield condition["key"].ignored(_NO_SNI, "use source.principal, or the ports of an operation")
    for field in _both(condition, "values"):
        for item in field:
            yield from _attribute_value(key, item)


def _is_header(key: str) -> bool:
    found = _HEADER_KEY.fullmatch(key)
    return bool(found and _HEADER_NAME.fullmatch(found[1]))


def _attribute_value(key: str, item: Spot) -> Findings:
    if key in {"source.ip", "remote.ip", "destination.ip"}:
        yield from _network(item)
    elif key == "destination.port":
        yield from _port(item)
    elif key == "source.serviceAccount":
        yield from _account(item)
    elif _is_header(key) and key.lower() != "request.headers[host]":
        yield from _header_value(item)
    elif key in _PLAIN_KEYS or key.startswith("request.headers["):
        yield from _wildcard(item)


def _sees_only_http(rule: Spot) -> bool:
    """Whether a bare connection can be told apart by nothing that the rule looks at (Istio's warning)."""
    sources = [item["source"] for item in rule["from"]]
    operations = [item["operation"] for item in rule["to"]]
    has_tcp_source = any(field.length for source in sources for field in _both(source, *_TCP_SOURCES))
    has_port = any(field.length for operation in operations for field in _both(operation, "ports"))
    return bool((sources and not operations and not has_tcp_source) or (operations and not has_port))


# ---------------------------------------------------------------------------------------------------------- values


def _network(item: Spot) -> Findings:
    try:
        ip_network(item.text("127.0.0.1"), strict=False)
    except ValueError:
        why = f'"bad CIDR range: {item.text()[:80]}"'
        yield item.invalid(why, "write an address (10.0.0.1) or a range (10.0.0.0/8)", code="invalid-value")


def _port(item: Spot) -> Findings:
    text = item.text("1")
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        why = f'"bad port: {text[:80]}"'
        yield item.invalid(why, "write a number from 1 to 65535 in quotation marks", code="invalid-value")


def _account(item: Spot) -> Findings:
    text = item.text("a")
    if len(text) > 320 or not _ACCOUNT.fullmatch(text):
        why = f"{text[:80]!r} is no service account"
        yield item.invalid(why, "write NAME or NAMESPACE/NAME, without wildcards", code="invalid-value")


def _wildcard(item: Spot) -> Findings:
    text = item.text()
    if "*" in text and text != "*" and ("*" in text[1:-1] or (text.startswith("*") and text.endswith("*"))):
        why = f"the * in {text[:80]!r} is neither first nor last, so it would be compared as a plain character"
        yield item.invalid(why, "write an exact value, a prefix (abc*), a suffix (*abc) or *", code="invalid-value")


def _header_value(item: Spot) -> Findings:
    """A header's value may also be asked for a part of it, as in ``*session=*``; nothing else may."""
    text = item.text()
    if len(text) < 3 or not (text.startswith("*") and text.endswith("*")) or "*" in text[1:-1]:
        yield from _wildcard(item)


def _path(item: Spot) -> Findings:
    text = item.text()
    if "{" not in text and "}" not in text:
        yield from _wildcard(item)
        return
    segments = text.removeprefix("/").split("/")
    if not text.startswith("/") or any(set(part) & set("{}*") and part not in {"{*}", "{**}"} for part in segments):
        why = f"\"invalid or unsupported path {text[:80]}. Contains '{{' or '}}' beyond a supported path template\""
        yield item.invalid(why, "use {*} for one whole segment and {**} for the rest", code="invalid-value")
    elif "{**}" in segments[:-1] and {"{*}", "{**}"} & set(segments[segments.index("{**}") + 1 :]):
        why = f'"invalid or unsupported path {text[:80]}. {{**}} is not the last operator"'
        yield item.invalid(why, "let {**} be the last operator of the path", code="invalid-value")
