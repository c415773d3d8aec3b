"""The rules of the Gateway API that connect the fields of a Gateway, in the words of its own schema.

Where a rule is quoted, the quotation marks hold the message of the CRD's validation.
"""

import re
from ipaddress import ip_address

from masche.model.resources.references import GROUP
from masche.model.spot import Finding, Findings, Spot, duplicates

_HOSTNAME = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_KEY = (
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]"
)


def gateway(gateway: Spot) -> Findings:
    """Everything about one Gateway."""
    spec = gateway["spec"]
    yield from _names(spec["listeners"])
    for listener in spec["listeners"]:
        yield from _protocol(listener)
        yield from _tls(listener)
        yield from _allowed_routes(listener["allowedRoutes"])
    yield from _addresses(spec["addresses"])
    yield from _infrastructure(spec["infrastructure"])
    yield from _options(spec)


def gateway_class(gateway_class: Spot) -> Findings:
    """Everything about one GatewayClass."""
    if gateway_class["spec"].has("parametersRef"):
        yield gateway_class["spec"]["parametersRef"].not_carried_out(
            "parametersRef", "remove it; there are no parameters"
        )


def _names(listeners: Spot) -> Findings:
    for listener, name in duplicates(iter(listeners), lambda listener: listener["name"].text()):
        why = f'"Listener name must be unique within the Gateway": {name}'
        yield listener["name"].invalid(why, "rename one of the listeners", code="invalid-duplicate")

    def identity(listener: Spot) -> object:
        port, protocol = listener["port"].number(), listener["protocol"].text()
        return (port, protocol, listener["hostname"].value) if port and protocol else None

    for listener, _ in duplicates(iter(listeners), identity):
        why = '"Combination of port, protocol and hostname must be unique for each listener"'
        yield listener.invalid(
            why, "change the port or the hostname, or remove one of the two", code="invalid-duplicate"
        )


def _protocol(listener: Spot) -> Findings:
    protocol = listener["protocol"].text().upper()
    if protocol in {"HTTP", "TCP", "UDP"} and listener.has("tls"):
        why = "\"tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']\""
        yield listener["tls"].invalid(why, "remove tls, or write protocol: HTTPS")
    if protocol in {"TCP", "UDP"} and listener["hostname"].text():
        why = "\"hostname must not be specified for protocols ['TCP', 'UDP']\""
        yield listener["hostname"].invalid(why, "remove the hostname")
    if protocol and protocol not in {"HTTP", "HTTPS"}:
        what = f"a listener of protocol {listener['protocol'].text()}"
        yield listener["protocol"].not_carried_out(what, "use HTTP or HTTPS")


def _tls(listener: Spot) -> Findings:
    protocol, tls = listener["protocol"].text().upper(), listener["tls"]
    mode = tls["mode"].text("Terminate")
    if protocol == "HTTPS" and mode != "Terminate":
        yield tls["mode"].invalid('"tls mode must be Terminate for protocol HTTPS"', "write mode: Terminate")
    if protocol == "TLS" and not (tls.is_there and mode):
        yield listener.invalid('"tls mode must be set for protocol TLS"', "add tls.mode", code="invalid-missing")
    if protocol == "HTTPS" and not tls.is_there:
        why = "an HTTPS listener needs a certificate"
        yield Finding(path=listener.path, code="certificate-missing", why=why, fix="add tls.certificateRefs")
    if tls.is_there and mode == "Terminate":
        yield from _certificates(tls)
    if tls.has("options") and not tls["options"].is_empty:
        yield tls["options"].not_carried_out("tls.options", "remove them")


def _certificates(tls: Spot) -> Findings:
    refs = list(tls["certificateRefs"])
    if not refs and (not tls.has("options") or tls["options"].is_empty):
        why = '"certificateRefs or options must be specified when mode is Terminate"'
        yield tls.invalid(why, "add certificateRefs with the name of a Secret of type kubernetes.io/tls")
    for ref in refs[1:]:
        yield ref.not_carried_out("more than one certificate for a listener", "write one listener per certificate")
    for ref in refs:
        if (ref["group"].text(), ref["kind"].text("Secret")) != ("", "Secret"):
            yield ref.not_carried_out(
                "a certificate that is not in a Secret", "name a Secret of type kubernetes.io/tls"
            )


def _allowed_routes(allowed: Spot) -> Findings:
    namespaces = allowed["namespaces"]
    if namespaces["from"].text() == "Selector" and not namespaces.has("selector"):
        why = '"Selector must be specified when From is set to "Selector""'
        yield Finding(path=namespaces.path, code="selector-missing", why=why, fix="add selector.matchLabels")
    yield from label_selector(namespaces["selector"])
    for kind in allowed["kinds"]:
        known = {(GROUP, "HTTPRoute"), (GROUP, "GRPCRoute")}
        if (kind["group"].text(GROUP), kind["kind"].text()) not in known and kind.has("kind"):
            why = f"only HTTPRoutes and GRPCRoutes attach here, so allowing {kind['kind'].text()} has no effect"
            yield kind.ignored(why, "remove it")


def label_selector(selector: Spot) -> Findings:
    """``values`` fit their operator (Kubernetes, LabelSelectorRequirement)."""
    for expression in selector["matchExpressions"]:
        operator, values = expression["operator"].text(), expression["values"].length
        if operator in {"In", "NotIn"} and not values:
            why = "must be specified when `operator` is 'In' or 'NotIn'"
            yield expression.invalid(why, "add values", code="invalid-missing")
        if operator in {"Exists", "DoesNotExist"} and values:
            why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            yield expression["values"].invalid(why, "remove values")


def _addresses(addresses: Spot) -> Findings:
    for address in addresses:
        kind, value = address["type"].text("IPAddress"), address["value"]
        if kind == "Hostname" and value.text() and not re.fullmatch(_HOSTNAME[1:-1], value.text()):
            why = f'"Hostname value must be empty or contain only valid characters (matching {_HOSTNAME})"'
            also = f'"Hostname value must only contain valid characters (matching {_HOSTNAME})"'
            yield value.invalid(f"{why}, {also}", "write a DNS name", code="invalid-value")
        if kind == "IPAddress" and value.text() and not _is_ip(value.text()):
            why = f"value in body must be of type ipv4 or ipv6: {value.text()[:80]!r}"
            yield value.invalid(why, "write an IP address", code="invalid-value")
    for kind in ("IPAddress", "Hostname"):
        same = (address for address in addresses if address["type"].text("IPAddress") == kind)
        for address, _ in duplicates(same, lambda address: address["value"].text()):
            yield address.invalid(f'"{kind} values must be unique"', "keep one of them", code="invalid-duplicate")
    if addresses.length:
        yield addresses.not_carried_out(
            "asking for addresses", "remove them and start `masche gateway --listen ADDRESS`"
        )


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _infrastructure(infrastructure: Spot) -> Findings:
    for field, noun in (("labels", "Label"), ("annotations", "Annotation")):
        for key, spot in infrastructure[field].entries():
            if not re.fullmatch(_KEY, key):
                why = (
                    f'"{noun} keys must be in the form of an optional DNS subdomain prefix followed by a required name '
                    'segment of up to 63 characters."'
                )
                yield spot.invalid(why, "rename it", code="invalid-value")
            if len(key.split("/", maxsplit=1)[0]) >= 253:
                why = (
                    f"\"If specified, the {noun.lower()} key's prefix must be a DNS subdomain not longer than 253 "
                    'characters in total."'
                )
                yield spot.invalid(why, "shorten it", code="invalid-value")
        if infrastructure.has(field):
            yield infrastructure[field].ignored("masche creates nothing that could carry them", "remove them")
    if infrastructure.has("parametersRef"):
        yield infrastructure["parametersRef"].not_carried_out("parametersRef", "remove it; there are no parameters")


def _options(spec: Spot) -> Findings:
    frontend = spec["tls"]["frontend"]
    for port, number in duplicates(iter(frontend["perPort"]), lambda port: port["port"].number()):
        why = f'"Port for TLS configuration must be unique within the Gateway": {number}'
        yield port.invalid(why, "keep one of them", code="invalid-duplicate")
    if spec["allowedListeners"]["namespaces"]["from"].text("None") != "None":
        yield spec["allowedListeners"].not_carried_out("attaching ListenerSets", "write the listeners into the Gateway")
    if spec["defaultScope"].text("None") != "None":
        yield spec["defaultScope"].not_carried_out("being the default Gateway", "name the Gateway in each route")
    for side in ("frontend", "backend"):
        if spec["tls"].has(side):
            what = "verifying clients of a Gateway" if side == "frontend" else "a client certificate of a Gateway"
            yield spec["tls"][side].not_carried_out(what, "remove it")
