"""What becomes of one request that came to our own port: it reaches the application, tidied, or is answered here.

Decided from the Inbound, the request and what its connection proved, exactly as our proxies decide it: the same limits
and spelling before any policy looks (``traffic.edge``), the same answers (observed on Envoy 1.40),
and the name of the rule for callers that proved who they are, for nobody else. Pure. Invariant: what reaches the
application has one spelling, and in headers of the mesh nobody speaks but the mesh.
"""

from dataclasses import replace
from urllib.parse import quote

from masche.model.frozen import frozen
from masche.model.view import Decision, Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.traffic import edge, orca
from masche.traffic.authorize import authorize
from masche.traffic.limit import Exceeded
from masche.traffic.normalise import normalise
from masche.traffic.request import Headers, Request
from masche.traffic.verdict import Verdict
from masche.wire import stats
from masche.wire.limits import DENIED

UNREACHED = "x-masche-unreached"
"""The response header that says that nothing of the request reached the application: a caller may send it again."""

XFCC = "x-forwarded-client-cert"

UNMATCHED = "no ALLOW policy matches"
"""The rule of a denial that no rule made, in reports."""

_MAX_CONSIDERED = 20
_GRPC_STATUS = {400: "13", 401: "16", 403: "7", 404: "12", 429: "8", 502: "14", 503: "14", 504: "14"}
"""How Envoy says an HTTP status of its own to a gRPC caller; what is not in here is UNKNOWN, 2. Only limits answer 429,
and they are told to say RESOURCE_EXHAUSTED."""

_PLAIN = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
"""What a ``grpc-message`` may hold as it is (gRPC over HTTP2, "Percent-Encoded"), beside letters and digits."""

_OURS = (DENIED, UNREACHED, stats.SERVICE_HEADER)
_CODEC = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}
"""What Envoy's codec says of what it cannot read; of a path it says nothing."""


@frozen
class Spot:
    """One port of the application: whose it is (``namespace/name``), and the name that Services may point at.

    ``joins_headers``: its server joins the values of repeated headers before anybody can look (PEP 3333).
    """

    workload: str
    port: int
    name: str = ""
    joins_headers: bool = False


@frozen
class Shown:
    """What the connection proved by mutual TLS: the caller's SPIFFE ID, the SHA-256 of its certificate in hexadecimal,
    and ``local``, the SPIFFE ID that we showed it.
    """

    peer: str
    certificate: str
    local: str


@frozen
class Answer:
    """The mesh's own answer. ``rule`` names what refused by policy, ``why`` is for the log; ``ends`` the connection."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    rule: str = ""
    why: str = ""
    ends: bool = False


@frozen
class Admitted:
    """The application gets ``request``, in which everything is as the proxies would have passed it on.

    ``idle_timeout``: how long nothing may move on it, in seconds, 0 for ever.
    """

    request: Request
    idle_timeout: float = 0.0


def mode(inbound: Inbound, port: int) -> MtlsMode:
    """Return how a port takes connections."""
    return dict(inbound.port_mtls).get(port, inbound.mtls)


def spoken(inbound: Inbound, spot: Spot) -> InboundPort:
    """Return what is spoken on a port; one that no Service points at is HTTP here, for an HTTP server listens there."""
    usual = InboundPort(target=spot.port, protocol=Protocol.HTTP)
    return next((each for each in inbound.ports if each.target in {spot.port, spot.name}), usual)


def receive(
    inbound: Inbound, request: Request, *, spot: Spot, shown: Shown | None, request_id: str
) -> Admitted | Answer:
    """Decide on one request as it came, absolute form and all. ``request_id`` names it if its caller did not.

    Order: who may come in at all, what no server should guess about, what we know of the caller and a name for the
    request, and then policies, which see what the application would.
    """
    if shown is None and mode(inbound, spot.port) is MtlsMode.STRICT:
        return _refused_plaintext(spot)
    plain = _plain(request, "https" if shown else "http")
    if fault := _unfit(plain):
        return fault
    clean = edge.received(plain)
    if isinstance(clean, Verdict):
        return _malformed(clean, plain)
    told = _with(clean, clean.target, clean.authority, _passed_on(clean, shown, request_id))
    verdict = authorize(_enforced(inbound.policies), told, is_joined=spot.joins_headers)
    if not verdict.allowed:
        return _said(_denied(verdict, inbound, spot, is_known=shown is not None), plain)
    return Admitted(request=told, idle_timeout=_idle_timeout(spoken(inbound, spot), clean))


def _idle_timeout(port: InboundPort, request: Request) -> float:
    """Streams (gRPC and upgraded connections) may be silent for longer."""
    is_stream = _is_grpc(request) or any(name == "upgrade" for name, _ in request.headers)
    return port.stream_idle_timeout if is_stream else port.idle_timeout


def _refused_plaintext(spot: Spot) -> Answer:
    why = f"port {spot.port} takes mutual TLS alone (STRICT); this connection is plaintext"
    return Answer(status=403, headers=_text(), body=why.encode(), why=why, ends=True)


def waiting(what: str, request: Request, *, is_known: bool) -> Answer:
    """Answer while nobody has said yet who may come in: never the application, whoever asks.

    Where our control plane is, and what is wrong with it, is for callers that proved who they are, and for the log.
    """
    why = f"not ready: waiting for {what or 'the control plane'}"
    headers = (*_text(), (UNREACHED, "1"))
    body = why if is_known else "not ready"
    return _said(Answer(status=503, headers=headers, body=body.encode(), why=why), request)


def overloaded(request: Request) -> Answer:
    """Answer a request above the limit of requests at a time."""
    headers = (*_text(), (UNREACHED, "1"))
    body = b"reached concurrency limit"
    return _said(Answer(status=503, headers=headers, body=body, why="the limit of requests at a time"), request)


def limited(exceeded: Exceeded, request: Request, *, is_known: bool) -> Answer:
    """Answer a request above a limit of requests in a time. Which limit it was is for callers that proved who they are.

    It has no line in the log (``why`` is empty): where too many come, a line for each would be too many, too.
    """
    named = ((DENIED, exceeded.limit.name),) if is_known else ()
    headers = (*_text(), *named, ("retry-after", str(exceeded.retry_after)))
    answer = Answer(status=429, headers=headers, body=b"local_rate_limited", rule=exceeded.limit.name)
    return _said(answer, request)


def silent(request: Request, *, is_read: bool) -> Answer:
    """Answer when nothing moved for too long; ``is_read``: all of the request had come."""
    status = 504 if is_read else 408
    return _said(Answer(status=status, headers=_text(), body=b"stream timeout", why="nothing moved on it"), request)


def answer_headers(headers: Headers, *, service_us: int | None, under_way: int | None = None) -> Headers:
    """Return the application's response headers as a caller gets them; ``service_us`` None: it proved nothing;
    ``under_way``: how many other requests there are, None: it did not ask.
    """
    kept = tuple(pair for pair in headers if pair[0].lower() not in _OURS)
    if service_us is None:
        return kept
    told = kept if under_way is None else _reported(kept, under_way)
    return (*told, (stats.SERVICE_HEADER, str(service_us)))


def _reported(headers: Headers, under_way: int) -> Headers:
    """With a report of our load; an application that makes one itself keeps its words, and ours come with them."""
    if all(name.lower() != orca.REPORT for name, _ in headers):
        return (*headers, orca.spoken(under_way))
    return tuple(
        (name, orca.with_ours(value, under_way) if name.lower() == orca.REPORT else value) for name, value in headers
    )


def _plain(request: Request, scheme: str) -> Request:
    """Read an absolute form (RFC 9112, 3.2.2): its host wins, and "the received Host header field" is ignored."""
    target, authority = request.target, request.authority
    if not target.startswith("/"):
        named, separator, rest = target.partition("://")
        if separator and named.lower() in {"http", "https"}:
            authority, slash, path = rest.partition("/")
            target = slash + path or "/"
    if (target, authority, scheme) == (request.target, request.authority, request.scheme):
        return request
    return _with(replace(request, scheme=scheme), target, authority, request.headers)


def _with(request: Request, target: str, authority: str, headers: Headers) -> Request:
    """``dataclasses.replace`` in a fifth of its time; each request comes by here."""
    return Request(
        method=request.method,
        target=target,
        authority=authority,
        scheme=request.scheme,
        headers=headers,
        connection=request.connection,
    )


def _unfit(request: Request) -> Answer | None:
    """What names nothing that an application could answer for."""
    if not request.authority:
        return Answer(status=400, why="it names no host", ends=True)
    if request.target == "*" and request.method != "OPTIONS":
        return Answer(status=400, why="only OPTIONS may ask a server as a whole", ends=True)
    if request.method == "CONNECT" or request.target == "*":
        return Answer(status=404, why="nothing here is a proxy, nor a server as a whole")
    return None


def _malformed(verdict: Verdict, request: Request) -> Answer:
    """What Envoy refuses before it looks for a route: its codec in words, its connection manager without."""
    if isinstance(normalise(request.target), Verdict) and verdict.status in {400, 404}:
        return _said(Answer(status=verdict.status, why=verdict.sentence, ends=True), request)
    body = _CODEC.get(verdict.status, b"")
    return Answer(status=verdict.status, headers=_text(), body=body, why=verdict.sentence, ends=True)


def _text() -> Headers:
    return (("content-type", "text/plain"),)


def _denied(verdict: Verdict, inbound: Inbound, spot: Spot, *, is_known: bool) -> Answer:
    """Policy says no. Which rule it was is for callers that proved who they are; the log always has it."""
    said = verdict.rule or _implicit_denial(inbound, spot)
    headers = (*_text(), (DENIED, said)) if is_known else _text()
    rule = verdict.rule or UNMATCHED
    return Answer(status=verdict.status, headers=headers, body=b"RBAC: access denied", rule=rule, why=said)


def _implicit_denial(inbound: Inbound, spot: Spot) -> str:
    allowing = [policy.name for policy in inbound.policies if policy.decision is Decision.ALLOW]
    names = ", ".join(allowing[:_MAX_CONSIDERED]) + (", ..." if len(allowing) > _MAX_CONSIDERED else "")
    return f"no ALLOW policy of {spot.workload} matches; considered: {names}"


def _enforced(policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    return tuple(policy for policy in policies if policy.decision is not Decision.AUDIT)


def _said(answer: Answer, request: Request) -> Answer:
    """Say it as the caller's protocol does: gRPC reads its own status, and no body."""
    if not _is_grpc(request):
        return answer
    kept = tuple(pair for pair in answer.headers if pair[0] != "content-type")
    status = (("content-type", "application/grpc"), ("grpc-status", _GRPC_STATUS.get(answer.status, "2")))
    message = (("grpc-message", quote(answer.body, safe=_PLAIN)),) if answer.body else ()
    return replace(answer, status=200, headers=(*kept, *status, *message), body=b"")


def _is_grpc(request: Request) -> bool:
    kind = next(iter(request.values("content-type")), "")
    return kind == "application/grpc" or kind.startswith("application/grpc+")


def _passed_on(request: Request, shown: Shown | None, request_id: str) -> Headers:
    """What our proxies set: who was there, and a name for the request when it has none."""
    source, chain, named = request.connection.source_ip, "", ""
    kept: list[tuple[str, str]] = []
    for pair in request.headers:
        match pair[0]:
            case "x-forwarded-for":
                chain = f"{chain},{pair[1]}" if chain else pair[1]
            case "x-request-id":
                named = named or pair[1]
            case "host":
                pass
            case _:
                kept.append(pair)
    told = [("host", request.authority)]
    if source or chain:
        told.append(("x-forwarded-for", f"{chain},{source}" if chain and source else chain or source))
    told.append(("x-request-id", named or request_id))
    if shown:
        told.append((XFCC, f"By={shown.local};Hash={shown.certificate};URI={shown.peer}"))
    return (*told, *kept)
