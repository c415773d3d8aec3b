"""The rules of Kubernetes' own kinds (Service, EndpointSlice, Secret) that connect their fields, and what a Service may
say in Kubernetes that has no meaning here.
"""

from ipaddress import ip_address

from masche.model.spot import Beyond, Finding, Findings, Judge, Spot, distinct, duplicates

_LABEL_FIX = "use lower case letters, digits and -, at most 63"
_NODE_ONLY = "masche opens no ports on nodes and creates no load balancer; callers in the mesh are not affected"


def namespace(namespace: Spot) -> Findings:
    """Everything about one Namespace."""
    yield from _label(namespace["metadata"]["name"], "the name of a Namespace")


def service(service: Spot) -> Findings:
    """Everything about one Service."""
    yield from _label(service["metadata"]["name"], "the name of a Service")
    spec = service["spec"]
    ports = spec["ports"]
    if not ports.length and spec["type"].text() != "ExternalName":
        yield spec.invalid("spec.ports: Required value", "add at least one port", code="invalid-missing")
    for port in ports:
        if ports.length > 1 and not port["name"].text():
            why = "Required value: a Service with several ports names each of them"
            yield port.invalid(why, "add a name", code="invalid-missing")
        if port["protocol"].text("TCP") != "TCP":
            why = f"{port['protocol'].text()} is not carried by the mesh; callers reach this port without it"
            yield port["protocol"].ignored(why, "remove the port if nobody uses it")
    yield from distinct(ports, "name")
    same = (port for port in ports if port["protocol"].text("TCP") == "TCP")
    for port, number in duplicates(same, lambda port: port["port"].number()):
        yield port["port"].invalid(f"Duplicate value: {number}", "keep one of them", code="invalid-duplicate")


def endpoint_slice(endpoint_slice: Spot) -> Findings:
    """Everything about one EndpointSlice."""
    kind = endpoint_slice["addressType"].text()
    if kind == "FQDN":
        yield endpoint_slice["addressType"].not_carried_out("addressType FQDN", "write IP addresses")
    if not endpoint_slice["metadata"]["labels"]["kubernetes.io/service-name"].text():
        why = "without the label kubernetes.io/service-name it belongs to no Service"
        yield endpoint_slice.ignored(why, "add the label to metadata.labels")
    for endpoint in endpoint_slice["endpoints"]:
        for address in endpoint["addresses"]:
            yield from _address(address, {"IPv4": 4, "IPv6": 6}.get(kind))
    yield from distinct(endpoint_slice["ports"], "name")


def secret(secret: Spot) -> Findings:
    """Everything about one Secret. Nothing here ever shows a value."""
    kind = secret["type"].text("Opaque")
    if kind != "kubernetes.io/tls":
        fix = "write type: kubernetes.io/tls with tls.crt and tls.key"
        yield secret["type"].not_carried_out(f"a Secret of type {kind[:80]}", fix)
        return
    for key in ("tls.crt", "tls.key"):
        if not secret["data"].has(key):
            yield secret["data"].invalid(f"Required value: {key}", f"add {key} in base64", code="invalid-missing")


def _label(name: Spot, what: str) -> Findings:
    text = name.text("a")
    if "." in text or len(text) > 63:
        yield name.invalid(f"{what} is an RFC 1123 label", _LABEL_FIX, code="invalid-value")


def _address(address: Spot, version: int | None) -> Findings:
    try:
        found = ip_address(address.text("0.0.0.0")).version  # noqa: S104 - stands for an address that is not text
    except ValueError:
        yield address.invalid("must be an IP address", "write an IP address", code="invalid-value")
        return
    if version and address.is_there and found != version:
        yield address.invalid(
            f"is not of the addressType IPv{version}", "write one slice per type", code="invalid-value"
        )


# ------------------------------------------------------------------------------- what the types leave out of a Service


def _harmless(spot: Spot) -> Finding:
    return spot.ignored("it has no meaning outside Kubernetes", "remove it, or keep it for Kubernetes")


def _service_type(spot: Spot) -> Finding | None:
    match spot.text():
        case "ClusterIP":
            return None
        case "NodePort" | "LoadBalancer":
            return spot.ignored(_NODE_ONLY, "remove it, or write a Gateway to let traffic in")
        case "ExternalName":
            return spot.not_carried_out("type: ExternalName", "call that name directly")
        case _:
            why = 'Unsupported value: supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'
            return spot.invalid(why, "remove it", code="invalid-value")


def _only(*harmless: object, what: str, fix: str) -> Judge:
    def judge(spot: Spot) -> Finding | None:
        return None if spot.value in harmless else spot.not_carried_out(f"{what}: {spot.value}", fix)

    return judge


def _exposed(spot: Spot) -> Finding:
    return spot.ignored(_NODE_ONLY, "remove it, or write a Gateway to let traffic in")


SERVICE_BEYOND: Beyond = {
    ("spec", "type"): _service_type,
    ("spec", "externalName"): lambda spot: spot.not_carried_out("externalName", "call that name directly"),
    ("spec", "sessionAffinity"): _only(
        "None", what="sessionAffinity", fix="write a TrafficPolicy with loadBalancing.hashOn of type SourceIP"
    ),
    ("spec", "internalTrafficPolicy"): _only("Cluster", what="internalTrafficPolicy", fix="remove it"),
    ("spec", "publishNotReadyAddresses"): _only(*(False,), what="publishNotReadyAddresses", fix="remove it"),
    **{
        ("spec", name): _harmless
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "sessionAffinityConfig")
    },
    **{("spec", name): _harmless for name in ("trafficDistribution", "topologyKeys")},
    **{
        ("spec", name): _exposed
        for name in (
            "externalIPs",
            "externalTrafficPolicy",
            "loadBalancerIP",
            "loadBalancerClass",
            "loadBalancerSourceRanges",
            "allocateLoadBalancerNodePorts",
            "healthCheckNodePort",
        )
    },
    ("spec", "ports", "*", "nodePort"): _exposed,
}
SLICE_BEYOND: Beyond = {
    ("endpoints", "*", "targetRef"): _harmless,
    ("endpoints", "*", "hints"): _harmless,
    ("endpoints", "*", "deprecatedTopology"): _harmless,
}
SECRET_BEYOND: Beyond = {
    ("stringData",): lambda spot: spot.not_carried_out("stringData", "write the values into data, in base64"),
    ("immutable",): _harmless,
}
NAMESPACE_BEYOND: Beyond = {("spec",): _harmless}
METADATA_BEYOND: Beyond = {
    ("metadata", "generateName"): lambda spot: spot.not_carried_out("generateName", "write a name"),
    **{
        ("metadata", name): _harmless
        for name in (
            "uid",
            "resourceVersion",
            "generation",
            "managedFields",
            "selfLink",
            "ownerReferences",
            "finalizers",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        )
    },
}
STATUS_BEYOND: Beyond = {
    ("status",): lambda spot: spot.ignored("the status is written by the mesh, never read", "remove it")
}
