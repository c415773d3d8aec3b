"""The act in which a link between two zones becomes slow, and calls take a detour that nobody wrote down.

Readers in Vienna call reviews in Milan; in Zurich stands nothing but a gateway between zones. The zones are loopback
addresses, and the links between them relays that let bytes wait.
"""

import sys
from collections.abc import Callable, Iterable

from masche.cli.act import Act, none_failed, promise
from masche.cli.links import Link, Links
from masche.cli.stage import NAMESPACE, Calls, Stage

CALLERS, SERVERS, BETWEEN = "vienna", "milan", "zurich"
WELL, OTHERS, SLOW = Link(delay=0.001), Link(delay=0.005), Link(delay=0.1)
SLOW_MS = 2000 * SLOW.delay
READERS = "readers"
RATE = 100
GATEWAY = "gateway of zurich"
HALF = 0.5
WITHIN = 30.0
"""Seconds in which calls leave the slow link, and half of those in which they take it again, also where a machine has
much to do. What is aimed at, five and ten seconds, is measured by ``make bench NAME=slow-route``.
"""

REVIEWS = f"""
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: {NAMESPACE}}}
spec:
  selector: {{app: reviews}}
  ports: [{{name: http, port: 80, targetPort: http, appProtocol: http}}]
"""


def _play(stage: Stage) -> Iterable[str]:
    links = stage.lay((CALLERS, SERVERS, BETWEEN))
    before = _open(stage, links)
    began, known = stage.mark(), stage.client.events(limit=1).latest
    links.set_both(CALLERS, SERVERS, SLOW)
    took = stage.until(lambda: _is_detoured(stage), "calls stay on the slow link", within=WITHIN)
    during = _await(stage, lambda calls: 0 < calls.percentile(0.5) < SLOW_MS, since=began)
    # Typical ones: a few calls still go the direct way, which is how it is seen when it is well.
    after = _await(
        stage, lambda calls: calls.sent > 1.5 * RATE and calls.percentile(0.5) < SLOW_MS / 2, since=stage.mark()
    )
    yield (
        f"p99 before {before.percentile(0.99):.0f} ms, on the slow link {during.percentile(0.99):.0f} ms, "
        f"by the detour {after.percentile(0.99):.0f} ms"
    )
    yield f"{took:.1f} s after the change {_ways(stage)}"
    yield f"`masche events --kind detoured` says: {_said(stage, known)}"
    links.set_both(CALLERS, SERVERS, WELL)
    back = stage.until(lambda: not _is_detoured(stage), "calls stay on the detour", within=2 * WITHIN)
    yield f"{back:.1f} s after the link healed calls take it again"
    yield none_failed(stage.calls(began, load=READERS), "all the while")
    stage.stop(READERS)


def _open(stage: Stage, links: Links) -> Calls:
    """Put a gateway, reviews and readers into their zones; return what the readers see while all is well."""
    for one in (CALLERS, SERVERS):
        links.set_both(one, BETWEEN, OTHERS)
    links.set_both(CALLERS, SERVERS, WELL)
    stage.apply(REVIEWS)
    stage.start(GATEWAY, ["gateway", "--east-west", *links.gateway_options(BETWEEN)])
    stage.run("reviews-1", "reviews", [sys.executable, "reviews.py"], options=links.run_options(SERVERS))
    stage.until(lambda: len(stage.ready("reviews")) == 1, "reviews do not start", watch="reviews-1")
    settings = {"RATE": str(RATE), "RECORD": str(stage.record(READERS))}
    settings |= {"TARGET": "reviews", "METHOD": "GET", "CALL": "/reviews"}
    command = [sys.executable, "load.py"]
    stage.run(READERS, READERS, command, port=False, env=settings, options=links.run_options(CALLERS))
    stage.until(lambda: _carries(stage), f"the {GATEWAY} does not serve", watch=GATEWAY)
    return _await(stage, lambda calls: calls.sent > 1.5 * RATE, since=stage.mark())


def _carries(stage: Stage) -> bool:
    return any(each.zone == BETWEEN and each.state == "READY" and each.is_in_sync for each in stage.status().proxies)


def _await(stage: Stage, is_so: Callable[[Calls], bool], *, since: float) -> Calls:
    """Wait until the readers' last two seconds were so; return what they saw since then."""
    stage.until(
        lambda: is_so(stage.calls(max(since, stage.mark() - 3.2), load=READERS)),
        "the readers' calls did not become as they should",
        within=2 * WITHIN,
        watch=READERS,
    )
    return stage.calls(since, load=READERS)


def _is_detoured(stage: Stage) -> bool:
    """Whether most calls are meant to pass the gateway."""
    shifts = (each for each in stage.client.zones(window=3).shifts if each.service.startswith(f"{NAMESPACE}/reviews:"))
    return any(share.via == BETWEEN and share.share > HALF for shift in shifts for share in shift.shares)


def _ways(stage: Stage) -> str:
    """Where the calls went in the last seconds, as the readers' proxy counted them."""
    links = [
        each for each in stage.client.zones(window=2).links if (each.source, each.destination) == (CALLERS, SERVERS)
    ]
    total = sum(each.rate.requests_per_second for each in links) or 1.0
    parts = [
        f"{each.rate.requests_per_second / total:.1%} of the calls go "
        f"{f'through {each.via}' if each.via else 'the direct way'} ({each.network_ms:.0f} ms of network)"
        for each in sorted(links, key=lambda each: -each.rate.requests_per_second)
    ]
    return ", ".join(parts)


def _said(stage: Stage, after: int) -> str:
    """The sentence with which calls were moved."""
    found = [each.message for each in stage.client.events(after=after).events if each.kind == "detoured"]
    moved = [sentence for sentence in found if "moved to" in sentence]
    promise(bool(moved), f"nothing was said of calls that moved: {found}")
    return moved[0]


SLOW_LINK = Act(
    title="A link becomes slow",
    story="Vienna calls Milan, and the line between them takes 200 ms instead of 2. Zurich has nothing but a gateway.",
    play=_play,
)
