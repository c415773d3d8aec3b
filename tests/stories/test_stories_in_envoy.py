"""Every story is carried out by real Envoys with mutual TLS, and every request of it is really sent.

Two things must hold: what its author expects, and what ``why`` says of the same request in the same mesh. Each request
goes through the local listener that ``<SERVICE>_URL`` points at, and again through the explicit proxy.
"""

from collections.abc import Iterator

import pytest

from live.client import Answer, http1, tcp
from live.mesh import Live, Standing, here
from masche.compiler.replay import explain
from masche.compiler.why import Explanation, Outcome, Stage
from masche.model.view import Forward, Outbound, Route, View
from stories.loader import ROOT, Asked, Story, names, read_mesh, story

DENIED = "x-masche-denied"
TRIES = 400
"""So often at most is a request sent that may go to one of several backends, until all were seen."""


@pytest.mark.parametrize("name", names())
def test_envoy_does_what_a_story_expects_and_what_why_says(name: str, live: Live):
    told = story(name)
    mesh = read_mesh(here((ROOT / name / "mesh.yaml").read_text()), file=name)
    callers = {each.source for each in told.requests}
    live.load(mesh, callers, {each.source: each.gateway for each in told.requests if each.gateway})
    wrong = [f"{asked} by {way}: {fault}" for asked in told.requests for way, fault in faults(live, told, asked)]
    assert not wrong, "\n".join(wrong)


def faults(live: Live, told: Story, asked: Asked) -> Iterator[tuple[str, str]]:
    """Send one request in all ways that there are, and say what is wrong with what came of it."""
    said = explain(live.mesh, live.mesh.workloads[asked.source], asked.call, gateway=asked.gateway)
    standing = live.standing[asked.source]
    ways = Ways(live, standing, asked, said)
    for way, send in ways.all():
        live.forget()
        answers = [send()]
        while ways.is_by_chance and len(answers) < TRIES and not ways.is_all_seen(answers):
            answers.append(send())
        yield from ((way, fault) for fault in ways.judged(answers))


class Ways:
    """How one request can be sent, and what is right."""

    def __init__(self, live: Live, standing: Standing, asked: Asked, said: Explanation) -> None:
        self.live, self.standing, self.asked, self.said = live, standing, asked, said
        self.way: Outbound | None = None if asked.gateway else standing.way(asked.call.host, asked.call.port)
        actions = [route.action for route in routes(standing.view, self.way, said)]
        forwards = [action for action in actions if isinstance(action, Forward)]
        weighted = [each for action in forwards for each in action.backends if each.weight > 0]
        self.backends = sorted({each.cluster for each in weighted if each.cluster and not each.redirect})
        self.shares = {(each.redirect.status if each.redirect else 200) if each.cluster else 500 for each in weighted}
        if self.way and not self.way.protocol.is_http:
            self.backends = [each.cluster for each in self.way.backends if each.cluster]
        self.is_by_chance = len(weighted) > 1 or bool(said.mirrors)

    def all(self):
        call = self.asked.call
        host = f"{call.host}:{call.port}" if call.port not in {0, 80} else call.host
        if self.asked.gateway:
            to = self.standing.gateway(call.port)
            tls = (
                call.host if any(each.port == call.port and each.is_tls for each in self.standing.view.gateway) else ""
            )
            if to:
                yield "gateway", lambda: http1(to, call.method, call.path, host, call.headers, server_name=tls)
            else:
                assert self.said.outcome is Outcome.NO_ROUTE
            return
        if self.way:
            local = self.standing.local(self.way.service)
            if not self.way.protocol.is_http:
                yield "URL", lambda: tcp(local)
                return
            yield "URL", lambda: http1(local, call.method, call.path, host, call.headers)
        target = f"http://{host}{call.path}"
        yield "proxy", lambda: http1(self.standing.proxy, call.method, target, host, call.headers)

    def is_all_seen(self, answers: list[Answer]) -> bool:
        """Whether every backend, every kind of share and every mirror had its turn."""
        found = {(answer.backend, answer.echo["port"]) for answer in answers if answer.echo}
        copied = {(got.name, got.port) for got in self.live.backends.log}
        return (
            {answer.status for answer in answers} >= self.shares
            and all(self.live.instances(each) & found for each in self.backends)
            and all(self.live.instances(each) & copied for each in self.said.mirrors)
        )

    def judged(self, answers: list[Answer]) -> Iterator[str]:
        expect, statuses = self.asked.expect, {answer.status for answer in answers}
        if self.said.outcome is Outcome.NO_ROUTE and not self.said.status:
            yield from self._left_the_mesh(answers)
            return
        meant = self.said.status or 200
        if self.way and not self.way.protocol.is_http and meant == 403:
            meant = 0
        wanted = {"status": meant, **expect}["status"] if self.way is None or self.way.protocol.is_http else meant
        if wanted not in statuses or (not self.is_by_chance and statuses != {wanted}):
            yield f"expected {wanted}, got {sorted(statuses)}: {answers[0]}"
        if meant not in statuses:
            yield f"why says {meant}, got {sorted(statuses)}"
        if len(self.shares) > 1 and statuses != self.shares:
            yield f"the shares should come to {sorted(self.shares)}, and came to {sorted(statuses)}"
        found = {(answer.backend, answer.echo["port"]) for answer in answers if answer.echo}
        meant_to = {each: self.live.instances(each) for each in self.backends}
        if stray := found - set().union(*meant_to.values()):
            yield f"{sorted(stray)} answered, which why does not name"
        if self.said.outcome is Outcome.ALLOWED and not self.said.status:
            yield from (f"{each} never answered" for each, some in meant_to.items() if not some & found)
        yield from self._details(answers[0])

    def _left_the_mesh(self, answers: list[Answer]) -> Iterator[str]:
        for answer in answers:
            if answer.echo or answer.status not in {502, 503, 504}:
                yield f"it should have left the mesh for nowhere, and got {answer}"

    def _details(self, answer: Answer) -> Iterator[str]:
        expect, said = self.asked.expect, self.said
        if self.asked.gateway and answer.header(DENIED) is not None:
            yield f"somebody out there is told {answer.header(DENIED)!r}"
        if said.outcome is Outcome.DENIED and answer.status == 403 and not self.asked.gateway:
            named = answer.header(DENIED) or ""
            if said.rule and named != said.rule:
                yield f"why blames {said.rule}, Envoy {named!r}"
            if not said.rule and not named.startswith("no ALLOW policy of "):
                yield f"why blames nothing in particular, Envoy {named!r}"
        where = answer.header("location") or ""
        if (expect.get("location", where), said.location or where) != (where, where):
            yield f"it is sent to {where!r}; expected {expect.get('location')!r}, why says {said.location!r}"
        if answer.echo:
            yield from self._received(answer)

    def _received(self, answer: Answer) -> Iterator[str]:
        expect, echo = self.asked.expect, answer.echo
        if answer.echo["protocol"] == "tcp":
            return
        if echo["peer"] != self.standing.view.identity and has_proxy(self.live, answer):
            yield f"the callee saw {echo['peer']!r} calling"
        sent = self.said.request
        if sent is None:
            return
        if echo["path"] != sent.target or expect.get("path", sent.target) != sent.target:
            yield f"{echo['path']} arrived, why says {sent.target}"
        if "authority" in expect and echo["host"] != expect["authority"]:
            yield f"{echo['host']} arrived as the authority"
        for name, value in expect.get("headers", {}).items():
            found = ",".join(content for key, content in echo["headers"] if key == name) or None
            if found != value:
                yield f"{name}: {found} arrived instead of {value}"
        for mirror in self.said.mirrors:
            instances = self.live.instances(mirror)
            if not self.live.arrived(lambda got, instances=instances: (got.name, got.port) in instances):
                yield f"no copy arrived at {mirror}"


def routes(told: View, way: Outbound | None, said: Explanation) -> list[Route]:
    """The route that ``why`` names, in the table that the request meets."""
    rule = next((step.rule for step in said.steps if step.stage is Stage.ROUTE and step.is_passed), "")
    tables = [way] if way else [host for each in told.gateway for host in each.virtual_hosts]
    return [route for table in tables for route in table.routes if route.name == rule][:1]


def has_proxy(live: Live, answer: Answer) -> bool:
    return any(str(name) == answer.backend for name in live.standing)
