"""What the API says about one call: the question ``why`` and the chain of decisions that answers it.

The conventions are those of ``api.messages``.
"""

from enum import StrEnum

from msgspec import field

from masche.api.messages import Message, Request


class WhyRequest(Request, frozen=True, kw_only=True):
    """Would ``source`` reach ``destination``?

    ``source`` is a workload or a service (``shop/web`` or ``web.shop`` or ``web`` of the namespace default),
    ``destination`` any name or URL host that the source could call. ``port`` 0 is the only or the first port.
    """

    source: str
    destination: str
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    port: int = 0


class Verdict(StrEnum):
    """What becomes of the call."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NO_ROUTE = "no-route"
    NO_ENDPOINT = "no-endpoint"
    REFUSED = "refused"


class Step(Message, frozen=True, kw_only=True):
    """One link of the chain identity, route, cluster, mtls, policy, endpoint.

    ``text`` says what was found; ``rule`` names the rule that decided here and ``origin`` the resource and place that
    it came from (``AuthorizationPolicy/shop/allow-web spec.rules[0]``); ``details`` are what was considered besides.
    """

    stage: str
    is_passed: bool
    text: str
    rule: str = ""
    origin: str = ""
    details: tuple[str, ...] = ()


class Explanation(Message, frozen=True, kw_only=True):
    """The chain in the order in which the mesh decides, up to and including the step that decided.

    ``status`` is the HTTP status that the mesh itself would answer, 0 when the application answers.
    """

    verdict: Verdict
    summary: str
    source: str
    destination: str
    steps: tuple[Step, ...]
    deciding_rule: str = ""
    status: int = 0
