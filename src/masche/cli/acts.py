"""The acts of the demonstration: each shows one promise of the mesh on the real thing, and measures it.

An act returns what it found as lines for people; a promise that was not kept raises BrokenPromiseError, so that the
unattended run of the demonstration is a test.
"""

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable

from cryptography import x509

from masche.cli.act import Act, none_failed, promise
from masche.cli.slow_link import SLOW_LINK
from masche.cli.stage import NAMESPACE, SHOP, Calls, Stage, plaintext_answer, shown_certificate

SLOW_MS = 400.0
LEAST_CALLS = 20
SHOWN_SECONDS = 4.0
"""Of so many seconds the calls are shown."""

MOST_IN_FLIGHT = 4
"""Calls that one instance works on at the same time; a POST that it was killed over cannot be repeated safely."""

IN_FLIGHT_SECONDS = 1.0


# -- the shop -------------------------------------------------------------------------------------------------------


def open_shop(stage: Stage) -> None:
    """Start every service of the shop, each behind a sidecar of its own, but for one that is in the mesh by itself."""
    python = sys.executable
    for number in (1, 2, 3):
        stage.run(f"inventory-{number}", "inventory", [python, "inventory.py"])
    labels, env = {"version": "v1"}, {"VERSION": "v1"}
    stage.run("payment-1", "payment", [python, "payment.py"], labels=labels, env=env)
    stage.serve("payment-2", "payment", "payment:app", labels=labels, env=env)
    node = shutil.which("node")
    stage.run("orders-1", "orders", [node, "orders.mjs"] if node else [python, "orders.py"])
    stage.run("web-1", "web", [python, "web.py"])


def await_shop(stage: Stage, say: Callable[[int, int], None]) -> float:
    """Wait until every instance is ready; return the seconds."""
    wanted = {"inventory": 3, "payment": 2, "orders": 1, "web": 1}
    total = sum(wanted.values())

    def is_open() -> bool:
        ready = sum(min(number, len(stage.ready(service))) for service, number in wanted.items())
        say(ready, total)
        return ready == total

    return stage.until(is_open, "the shop did not open")


def open_doors(stage: Stage) -> None:
    """Start the gateway for browsers and the load for customers."""
    stage.gateway_port = stage.free_port()
    stage.start_gateway()
    command = [sys.executable, "load.py"]
    stage.run("load", "load", command, port=False, env={"RATE": str(stage.rate), "RECORD": str(stage.record())})
    stage.until(lambda: stage.buy().get("order") is not None, "nobody can buy through the gateway", watch="gateway")
    began = stage.mark()
    stage.until(lambda: stage.calls(began).sent > LEAST_CALLS, "no customer calls", watch="load")


# -- the acts -------------------------------------------------------------------------------------------------------


def _mutual_tls(stage: Stage) -> Iterable[str]:
    payment = stage.instance("payment-1")
    port = payment.ports[0].mesh_port
    certificate = x509.load_der_x509_certificate(shown_certificate(payment.address, port))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    identity = ", ".join(names.get_values_for_type(x509.UniformResourceIdentifier))
    promise(identity == payment.identity, f"payment-1 shows {identity or 'no identity'}, not {payment.identity}")
    yield f"payment-1 shows {identity}"
    yield f"its certificate ends at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and is renewed at half-life"
    answer = plaintext_answer(payment.address, port)
    promise(not answer, f"a plaintext call to payment-1 was answered: {answer[:80]!r}")
    yield f"a plaintext call to {payment.address}:{port} is refused: the connection is closed without an answer"


def _replica_joins(stage: Stage) -> Iterable[str]:
    began, mark = time.monotonic(), stage.mark()
    stage.run("inventory-4", "inventory", [sys.executable, "inventory.py"])
    seen: list[str] = []
    ready_at: list[float] = []

    def serves() -> bool:
        if not ready_at and len(stage.ready("inventory")) == 4:
            ready_at.append(time.monotonic())
        seen.append(str(stage.buy().get("inventory")))
        return "inventory-4" in seen

    stage.until(serves, "the new replica gets no traffic", watch="inventory-4")
    ended = time.monotonic()
    yield f"from the command to its first call: {1000 * (ended - began):.0f} ms, with Envoy, certificate and probe"
    if ready_at:
        yield f"from healthy to its first call: {1000 * max(0.0, ended - ready_at[0]):.0f} ms"
    yield none_failed(_settled_calls(stage, mark), "while it joined")


def _replica_slow(stage: Stage) -> Iterable[str]:
    before = stage.calls(stage.mark() - SHOWN_SECONDS)
    promise(before.sent > LEAST_CALLS, "no customer called before")
    stage.fault("inventory-2", delay_ms=SLOW_MS)
    during = stage.watch(3)
    stage.watch(4)
    share = _share_of(stage, "inventory-2")
    after = stage.watch(SHOWN_SECONDS)
    stage.fault("inventory-2", delay_ms=0)
    yield from slowed(before, during, after)
    yield f"inventory-2 answers {SLOW_MS:.0f} ms late and now gets {share:.1%} of the calls instead of 25 %"
    promise(share < 0.1, f"the slow replica still gets {share:.1%} of the calls")
    yield none_failed(after, "meanwhile")


def slowed(before: Calls, during: Calls, after: Calls) -> Iterable[str]:
    """Say what customers noticed of a slow replica. It is still asked now and then: one call in a hundred is a p99."""
    at_last = after.percentile(0.95)
    promise(at_last < SLOW_MS, f"one customer in twenty still waits {at_last:.0f} ms for the slow replica")
    yield (
        f"19 of 20 calls took at most {before.percentile(0.95):.0f} ms before (p95), {during.percentile(0.95):.0f} ms"
        f" just after, then {at_last:.0f} ms"
    )
    asked = sum(each >= SLOW_MS for each in after.latencies)
    yield f"{asked} of these last {after.sent} calls met it, which is how it is seen when it is well again"


def _share_of(stage: Stage, name: str) -> float:
    """The share of the calls to inventory that one instance got in the last seconds, as the callers' proxies count."""
    workload = stage.instance(name).workload
    counted: Counter[str] = Counter()
    for edge in stage.client.edges(window=3).edges:
        if edge.destination == f"{NAMESPACE}/inventory":
            for each in edge.endpoints:
                counted[each.workload] += int(1000 * each.rate.requests_per_second)
    promise(sum(counted.values()) > 0, "no calls to inventory were counted")
    return counted[workload] / sum(counted.values())


def _replica_dies(stage: Stage) -> Iterable[str]:
    mark = stage.mark()
    stage.kill_application("inventory-3")
    took = stage.until(lambda: len(stage.ready("inventory")) == 3, "the dead replica is still listed", within=20)
    calls = _settled_calls(stage, mark + IN_FLIGHT_SECONDS)
    lost = stage.calls(mark - 1, until=mark + IN_FLIGHT_SECONDS)
    stage.lost_in_flight = lost.failed
    yield f"kill -9 of inventory-3 under {stage.rate} calls/s; out of everybody's sight after {1000 * took:.0f} ms"
    promise(lost.failed <= MOST_IN_FLIGHT, f"{lost.failed} calls failed around the kill: {'; '.join(lost.errors)}")
    if lost.failed:
        yield f"{lost.failed} had been handed to it at that instant and not answered: orders are not placed twice"
    yield none_failed(calls, "from then on")


DENIAL = f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only-orders-may-charge, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: payment}}}}
  action: ALLOW
  rules:
  - from: [{{source: {{principals: ["*/ns/{NAMESPACE}/sa/orders"]}}}}]
"""

SNOOP = """
import os, urllib.request, urllib.error
try:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    print(opener.open(os.environ["PAYMENT_URL"] + "/version").status)
except urllib.error.HTTPError as error:
    print(error.code, error.headers.get("x-masche-denied", ""))
"""


def _policy_denies(stage: Stage) -> Iterable[str]:
    promise(_snoop(stage).startswith("200"), "the snoop could not call payment before the policy")
    began = time.monotonic()
    stage.apply(DENIAL)
    yield f"applied and live on every proxy in {1000 * (time.monotonic() - began):.0f} ms"
    said = _snoop(stage)
    promise(said.startswith("403"), f"the snoop was answered {said!r} in spite of the policy")
    promise("only-orders-may-charge" in said, f"the denial does not name its policy: {said!r}")
    yield f"a snooping service is told: {said}"
    yield none_failed(stage.watch(2), "by orders, which may, meanwhile")


def _snoop(stage: Stage) -> str:
    """Run a job in the mesh that calls payment, and return what it printed."""
    words = ["run", "--service", "snoop", "--namespace", NAMESPACE, "--", sys.executable, "-c", SNOOP]
    found = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "masche", *words],
        env=stage.environment(),
        cwd=SHOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = found.stdout.strip().splitlines()
    return lines[-1] if lines else f"nothing ({found.stderr.strip()[-300:]})"


SPLIT = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{{{name: payment-canary, namespace: {NAMESPACE}}}}}
spec:
  parentRefs: [{{{{kind: Service, group: "", name: payment}}}}]
  rules:
  - backendRefs:
    - {{{{name: payment-v1, port: 80, weight: {{old}}}}}}
    - {{{{name: payment-v2, port: 80, weight: {{new}}}}}}
"""


def _canary(stage: Stage) -> Iterable[str]:
    mark = stage.mark()
    stage.apply(SPLIT.format(old=100, new=0))
    stage.run("payment-3", "payment", [sys.executable, "payment.py"], labels={"version": "v2"}, env={"VERSION": "v2"})
    stage.until(lambda: len(stage.ready("payment")) == 3, "the canary did not start", watch="payment-3")
    for new in (10, 50, 100):
        stage.apply(SPLIT.format(old=100 - new, new=new))
        seen = Counter(str(stage.buy().get("payment")) for _ in range(100))
        yield f"{100 - new}/{new}: of 100 orders {seen['v1']} were paid by v1, {seen['v2']} by v2"
        promise(
            abs(seen["v2"] - new) <= 4 * (100 * new / 100 * (100 - new) / 100) ** 0.5, f"not a {new} % split: {seen}"
        )
    yield none_failed(_settled_calls(stage, mark), "during the whole shift")


def _control_plane_dies(stage: Stage) -> Iterable[str]:
    mark = stage.mark()
    stage.kill("control plane")
    seen = stage.watch(SHOWN_SECONDS)
    yield f"kill -9 of the control plane: {none_failed(seen, 'in the seconds without it')}"
    began = time.monotonic()
    stage.start_control_plane()
    stage.until(
        lambda: (
            all(each.is_in_sync for each in stage.status().proxies if each.is_connected)
            and len(stage.ready("payment")) == 3
        ),
        "the proxies did not come back",
    )
    yield f"started again: every proxy back and in sync after {time.monotonic() - began:.1f} s"
    yield none_failed(_settled_calls(stage, mark), "from the kill to now")


def _settled_calls(stage: Stage, since: float) -> Calls:
    """The calls since then, with those of the second that is still being counted."""
    stage.watch(2.0)
    stage.until(lambda: bool(stage.calls(since).sent), "the load stands still", watch="load")
    return stage.calls(since)


ACTS = (
    Act(
        title="Everything is mutual TLS",
        story="Every instance has an identity of its own; nothing else is spoken between them.",
        play=_mutual_tls,
    ),
    Act(
        title="A new replica joins",
        story="`masche run --service inventory ...` on a free port. Nobody writes an address.",
        play=_replica_joins,
    ),
    Act(
        title="A replica turns slow",
        story="It answers, but late. Traffic goes where it is answered faster.",
        play=_replica_slow,
    ),
    Act(title="A replica dies", story="Without a word, under load.", play=_replica_dies),
    SLOW_LINK,
    Act(
        title="A policy denies a caller",
        story="Only orders may charge money. The denial says which policy it was.",
        play=_policy_denies,
    ),
    Act(
        title="A canary",
        story="Version 2 of payment gets 10 %, then half, then everything: one line of YAML each.",
        play=_canary,
    ),
    Act(
        title="The control plane is killed",
        story="Proxies keep what they have and go on; it comes back and nothing moves.",
        play=_control_plane_dies,
    ),
)
