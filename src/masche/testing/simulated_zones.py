"""A simulation of steering in virtual time: callers in zones, instances that take time and queue, links that take
time and lose, reports that come late, and the real Steersman and compiler between them.

Nothing is real here but the decisions: no socket, no clock, no thread. The same seed gives the same calls, to the last
digit.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from random import Random

from masche.compiler.endpoints import endpoints
from masche.compiler.steer.moves import Move
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import survey
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.steering import NO_STEERING, Steering
from masche.model.view import Health

PORT = PortRef("shop", "orders", 80)
TICK = 0.1
TIMEOUT_US = 1_000_000.0
"""How long a simulated caller waits."""

LATEST = 0.4
"""Seconds that a report is late at most, and that new weights take until they are in force."""

SMOOTHING = 0.1
"""The share of a tenth of a second in the load that an instance feels: its queue is as long as a second's."""

Cost = Callable[[str, str, float], float]
"""From a zone to a zone at a second: what that costs."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One instance: ``service_us`` at a second when idle; it takes ``capacity`` calls a second, 0.0 for any number."""

    name: str
    zone: str
    service_us: Callable[[float], float] = lambda _now: 2000.0
    capacity: float = 0.0


@dataclass(kw_only=True)
class Second:
    """What happened in one second of one caller zone; ``shares`` counts calls by zone and way, latencies in us.

    ``intended`` is what part of the calls each zone and way was meant to have at the second's beginning.
    """

    at: float
    zone: str
    intended: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    shares: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    latencies: list[float] = field(default_factory=list[float])
    lost: int = 0

    def share(self, zone: str, via: str | None = None) -> float:
        """The share of calls that went to a zone, by one way or by any."""
        total = sum(self.shares.values())
        mine = sum(count for (to, way), count in self.shares.items() if to == zone and via in {None, way})
        return mine / total if total else 0.0

    def quantile_us(self, q: float) -> float:
        """The latency that the share ``q`` of the calls did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


@dataclass
class _Sums:
    calls: int = 0
    timeouts: int = 0
    latency_us: float = 0.0
    service_us: float = 0.0


@dataclass
class _Caller:
    """One proxy, its moment of reporting, and what it will report."""

    name: str
    zone: str
    phase: float
    sums: dict[tuple[str, str], _Sums] = field(default_factory=dict[tuple[str, str], _Sums])


@dataclass
class _Target:
    server: Server
    via: str
    weight: float


@dataclass(kw_only=True)
class Simulation:
    """``callers`` counts proxies by zone, each with ``rate`` calls a second; ``network_us`` is a round trip."""

    mesh: Mesh
    servers: Sequence[Server]
    callers: Mapping[str, int]
    rate: float
    network_us: Cost
    loss: Cost = lambda _source, _target, _now: 0.0
    has_service_time: bool = True
    seed: int = 1
    seconds: list[Second] = field(default_factory=list[Second])
    moves: list[tuple[float, Move]] = field(default_factory=list[tuple[float, Move]])
    publications: int = 0

    def run(self, until: float) -> "Simulation":
        """Run it from the beginning, and return itself with what happened."""
        self._rng = Random(self.seed)  # noqa: S311 - a simulation, not a secret
        self._steersman = Steersman()
        self._zones = {server.name: server.zone for server in self.servers}
        self._load = Counter[str]()
        self._busy = dict.fromkeys(self._zones, 0.0)
        self._mail: list[tuple[float, str, list[Seen]]] = []
        self._coming: list[tuple[float, Steering]] = [(0.0, NO_STEERING)]
        self._targets: dict[str, list[_Target]] = {}
        proxies = [
            _Caller(f"{zone}-{number}", zone, self._rng.random())
            for zone, count in sorted(self.callers.items())
            for number in range(count)
        ]
        for tick in range(round(until / TICK)):
            self._tick(proxies, tick)
        return self

    # -- a tenth of a second ----------------------------------------------------------------------------------------

    def _tick(self, proxies: list[_Caller], tick: int) -> None:
        now = tick * TICK
        if tick % 10 == 0:
            self._now_s = {
                zone: Second(at=now, zone=zone, intended=_intended(self._targets.get(zone, ())))
                for zone in sorted(self.callers)
            }
            self.seconds += self._now_s.values()
            if tick:
                self._steer(now)
        while self._coming and self._coming[0][0] <= now:
            self._apply(self._coming.pop(0)[1])
        for proxy in proxies:
            self._call(proxy, now)
            if int(now - proxy.phase) > int(now - TICK - proxy.phase):
                self._report(proxy, now)
        for server in self.servers:
            used = self._load[server.name] / TICK / server.capacity if server.capacity else 0.0
            self._busy[server.name] += SMOOTHING * (used - self._busy[server.name])
        self._load.clear()

    def _steer(self, now: float) -> None:
        due = [mail for mail in self._mail if mail[0] <= now]
        self._mail = [mail for mail in self._mail if mail[0] > now]
        for _, zone, seens in due:
            self._steersman.saw((PORT, zone), seens, now=now)
        decision = self._steersman.steer(survey(self.mesh, [PORT]), now=now)
        self.moves += ((now, move) for move in decision.moves)
        if decision.steering is not None:
            self.publications += 1
            self._coming.append((now + LATEST * self._rng.random(), decision.steering))

    def _apply(self, steering: Steering) -> None:
        by_name = {server.name: server for server in self.servers}
        for zone in self.callers:
            self._targets[zone] = [*_targets(self.mesh, steering, zone, by_name)]

    def _call(self, proxy: _Caller, now: float) -> None:
        targets = self._targets[proxy.zone]
        count = _poisson(self.rate * TICK, self._rng)
        for target in self._rng.choices(targets, [each.weight for each in targets], k=count) if count else ():
            self._one(proxy, target, now)

    def _one(self, proxy: _Caller, target: _Target, now: float) -> None:
        rng, server = self._rng, target.server
        self._load[server.name] += 1
        legs = [(proxy.zone, target.via), (target.via, server.zone)] if target.via else [(proxy.zone, server.zone)]
        network = sum(self.network_us(*leg, now) for leg in legs) * rng.lognormvariate(0.0, 0.15)
        queue = 1.0 / (1.0 - min(0.97, self._busy[server.name]))
        service = server.service_us(now) * queue * rng.gammavariate(4.0, 0.25)
        is_lost = any(rng.random() < self.loss(*leg, now) for leg in legs) or network + service >= TIMEOUT_US
        sums = proxy.sums.setdefault((server.name, target.via), _Sums())
        second = self._now_s[proxy.zone]
        sums.calls += 1
        second.shares[server.zone, target.via] += 1
        second.latencies.append(TIMEOUT_US if is_lost else network + service)
        if is_lost:
            sums.timeouts += 1
            second.lost += 1
            return
        sums.latency_us += network + service
        sums.service_us += service

    def _report(self, proxy: _Caller, now: float) -> None:
        seens = [*self._seens(proxy)]
        self._mail.append((now + LATEST * self._rng.random(), proxy.zone, seens))
        proxy.sums = {}

    def _seens(self, proxy: _Caller) -> Iterator[Seen]:
        for (name, via), sums in proxy.sums.items():
            answers = sums.calls - sums.timeouts
            yield Seen(
                workload=name,
                zone=self._zones[name],
                via=via,
                caller=proxy.name,
                answers=answers,
                errors=sums.timeouts,
                timeouts=sums.timeouts,
                latency_us=sums.latency_us / answers if answers else 0.0,
                service_us=sums.service_us / answers if answers and self.has_service_time else 0.0,
            )


def _targets(mesh: Mesh, steering: Steering, zone: str, servers: Mapping[str, Server]) -> Iterator[_Target]:
    """What a proxy of a zone chooses from, each with its part of the calls."""
    localities = endpoints(mesh, steering, PORT, zone).localities
    for locality in localities:
        healthy = [each for each in locality.endpoints if each.health is Health.HEALTHY]
        total = sum(each.weight for each in healthy)
        part = locality.weight or sum(each.weight for each in locality.endpoints)
        for each in healthy:
            server = servers[each.workload]
            yield _Target(server, locality.via, part * each.weight / total)


def _intended(targets: Sequence[_Target]) -> dict[tuple[str, str], float]:
    total = sum(each.weight for each in targets)
    parts: dict[tuple[str, str], float] = {}
    for each in targets:
        key = (each.server.zone, each.via)
        parts[key] = parts.get(key, 0.0) + each.weight / total
    return parts


def _poisson(mean: float, rng: Random) -> int:
    """Knuth's product of uniforms (The Art of Computer Programming, 3.4.1)."""
    limit, product, count = exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def mesh_of(
    servers: Sequence[Server], callers: Mapping[str, int], gateways: Sequence[str] = (), policy: str = ""
) -> str:
    """The YAML of such a mesh; ``policy`` is the spec of a TrafficPolicy for its namespace, in flow style."""
    documents = [
        "apiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop}\n"
        "spec: {selector: {app: orders}, ports: [{port: 80, targetPort: 8080}]}\n"
    ]
    documents += [_workload(each.name.split("/")[1], "orders", each.zone) for each in servers]
    documents += [_workload(f"web-{zone}-{n}", "web", zone) for zone, count in callers.items() for n in range(count)]
    documents += [_gateway(zone) for zone in gateways]
    if policy:
        documents.append(
            "apiVersion: masche.dev/v1\nkind: TrafficPolicy\n"
            f"metadata: {{name: policy, namespace: shop}}\nspec: {policy}\n"
        )
    return "---\n".join(documents)


def _workload(name: str, app: str, zone: str) -> str:
    return (
        "apiVersion: masche.dev/v1\nkind: Workload\n"
        f"metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n"
        f"spec: {{address: 127.0.0.2, zone: '{zone}', serviceAccount: {app}, "
        "ports: [{port: 8080, meshPort: 21000}]}\n"
    )


def _gateway(zone: str) -> str:
    return (
        "apiVersion: masche.dev/v1\nkind: Workload\nmetadata: {"
        f"name: gateway-{zone}, namespace: masche-system, labels: {{masche.dev/gateway: east-west}}}}\n"
        f"spec: {{address: 127.0.1.1, zone: '{zone}', serviceAccount: east-west, ports: [{{port: 15008}}]}}\n"
    )
