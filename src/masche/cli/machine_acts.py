"""The acts of the demonstration on three simulated machines: one Envoy on each, and lines between them that change.

Every workload has a network namespace of its own, is called by its name, and knows nothing of a mesh. What passes
between the machines is looked at on the wire.
"""

import asyncio
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import quote

from cryptography import x509

from masche.agent import admin
from masche.agent.folders import Folders
from masche.cli.act import Act, none_failed, promise
from masche.cli.machines import HOME, Machine, Machines
from masche.cli.slow_link import REVIEWS
from masche.cli.stage import NAMESPACE, Stage, shown_certificate

ZONES: Final = ("vienna", "milan", "zurich")
PLACES: Final = {
    "vienna": ("web-1", "orders-1", "inventory-1", "payment-1"),
    "milan": ("orders-2", "inventory-2", "payment-2", "reviews-1"),
    "zurich": ("web-2", "inventory-3", "payment-3", "reviews-2"),
}
WELL, SLOW = 0.001, 0.1
"""Seconds that a line takes, each way."""

READERS: Final = "readers"
RATE = 50
SLOW_MS = 2000 * SLOW
WITHIN = 30.0
"""Seconds in which calls leave a slow line, and half of those in which they take it again, where much else is done."""

_PLAIN: Final = re.compile(rb"needle|reviews|HTTP/1\.1|content-type")
"""What stands in what the shop says, and would be seen if it were not encrypted."""


class Wire:
    """What passed between machines, of which this one is none."""

    def __init__(self) -> None:
        self.frames: Counter[tuple[str, str]] = Counter()
        self.plain: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Wire {self.frames.total()} frames, {len(self.plain)} in plaintext>"

    def __call__(self, source: str, target: str, frame: bytes) -> None:
        """Look at one frame."""
        if HOME not in {source, target}:
            self.frames[source, target] += 1
            if _PLAIN.search(frame):
                self.plain.append(frame)


class Shop:
    """The shop on three machines."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.wire = Wire()
        self.machines: Machines = stage.build(ZONES, self.wire)
        self._line("vienna", "milan", WELL)
        self._line("vienna", "zurich", WELL)
        self._line("milan", "zurich", WELL)

    def __repr__(self) -> str:
        return f"<Shop {self.machines}>"

    def _line(self, one: str, other: str, delay: float) -> None:
        self.machines.switch.delay(one, other, delay)

    def open(self, say: Callable[[int, int], None]) -> float:
        """Let the machines join and start everything there; return the seconds until all is ready."""
        began = time.monotonic()
        for machine in self.machines:
            token = self.stage.do(["token", "create", "-n", NAMESPACE])
            self.stage.do(["join", "--machine", machine.zone, "--zone", machine.zone], machine=machine, said=token)
            self.stage.start_agent(machine)
        self.stage.apply(REVIEWS)
        for zone, names in PLACES.items():
            for name in names:
                self._start(name, self.machines[zone])
        wanted = Counter(name.rpartition("-")[0] for names in PLACES.values() for name in names)

        def is_open() -> bool:
            ready = sum(min(count, len(self.stage.ready(service))) for service, count in wanted.items())
            say(ready, wanted.total())
            return ready == wanted.total()

        self.stage.until(is_open, "the shop did not open", within=120)
        self._load("load", self.stage.rate, target="web", method="POST", call="/buy")
        return time.monotonic() - began

    def _start(self, name: str, machine: Machine) -> None:
        service = name.rpartition("-")[0]
        node = shutil.which("node")
        command = [node, "orders.mjs"] if service == "orders" and node else [sys.executable, f"{service}.py"]
        labels, env = ({"version": "v1"}, {"VERSION": "v1"}) if service == "payment" else ({}, {})
        self.stage.run(name, service, command, labels=labels, env=env, machine=machine)

    def _load(self, name: str, rate: int, *, target: str, method: str, call: str) -> None:
        """Customers in Vienna."""
        settings = {"RATE": str(rate), "RECORD": str(self.stage.record(name))}
        settings |= {"TARGET": target, "METHOD": method, "CALL": call}
        command = [sys.executable, "load.py"]
        self.stage.run(name, name, command, port=False, env=settings, machine=self.machines["vienna"])
        began = self.stage.mark()
        self.stage.until(
            lambda: self.stage.calls(began, load=name).sent > rate, f"nobody of the {name} calls", watch=name
        )

    # -- the acts ---------------------------------------------------------------------------------------------------

    def acts(self) -> tuple[Act, ...]:
        """What is shown."""
        return (
            Act(
                title="Everything between the machines is mutual TLS",
                story="Programs speak plaintext to names like http://orders; the wire between machines is watched.",
                play=self._encrypted,
            ),
            Act(
                title="A line becomes slow",
                story="Readers in Vienna ask reviews in Milan and Zurich; the line to Milan takes 200 ms instead of 2.",
                play=self._slow_line,
            ),
            Act(
                title="An Envoy is replaced",
                story="`masche agent --upgrade` in Vienna: a new Envoy takes over from the one that serves all there.",
                play=self._replaced,
            ),
        )

    def _encrypted(self, stage: Stage) -> Iterable[str]:
        before = self.wire.frames.total()
        calls = stage.watch(4)
        seen = self.wire.frames.total() - before
        promise(seen > 0, "nothing passed between the machines")
        promise(not self.wire.plain, f"plaintext was seen between the machines: {self.wire.plain[:1]!r}")
        yield f"{seen} frames between the machines in the last seconds: no word of the shop in any of them"
        for name in ("payment-2", "payment-3"):
            yield f"{name} shows {self._identity(name)}"
        yield none_failed(calls, "meanwhile")

    def _identity(self, name: str) -> str:
        """Whose certificate is shown on the machine where an instance is; it must be that instance's own."""
        found = self.stage.instance(name)
        certificate = x509.load_der_x509_certificate(shown_certificate(found.address, found.ports[0].mesh_port))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identity = ", ".join(names.get_values_for_type(x509.UniformResourceIdentifier))
        promise(identity == found.identity, f"{name} shows {identity or 'no identity'}, not {found.identity}")
        return identity

    def _slow_line(self, stage: Stage) -> Iterable[str]:
        self._load(READERS, RATE, target="reviews", method="GET", call="/reviews")
        stage.until(lambda: self._share("reviews-1") > 0, "nobody in Milan is asked", within=WITHIN)
        began = stage.mark()
        self._line("vienna", "milan", SLOW)
        stage.until(lambda: self._took(stage, 0.9) > SLOW_MS, "nobody notices", within=WITHIN)
        took = stage.until(lambda: self._is_elsewhere(stage), "calls stay on the slow line", within=WITHIN)
        yield f"{took:.1f} s after it was felt Milan gets {self._share('reviews-1'):.0%} of the calls, Zurich the rest"
        yield f"a call takes {self._took(stage, 0.5):.0f} ms then; by the slow line it would take {SLOW_MS:.0f} ms"
        self._line("vienna", "milan", WELL)
        back = stage.until(lambda: self._share("reviews-1") > 0.25, "Milan stays cut off", within=2 * WITHIN)
        yield f"{back:.1f} s after the line healed Milan gets its part again"
        yield none_failed(stage.calls(began, load=READERS), "all the while")
        stage.stop(READERS)

    def _is_elsewhere(self, stage: Stage) -> bool:
        return self._took(stage, 0.5) < SLOW_MS / 2 and self._share("reviews-1") < 0.2

    def _took(self, stage: Stage, share: float) -> float:
        """What that share of the readers' calls did not exceed in the last two or three seconds, in milliseconds."""
        return stage.calls(stage.mark() - 3.2, load=READERS).percentile(share)

    def _share(self, name: str) -> float:
        """The share of Vienna's calls to a service that one instance gets, as Vienna's Envoy counts for a second."""
        found = self.stage.instance(name)
        before = self._asked(found.service)
        time.sleep(1)
        asked = self._asked(found.service)
        asked.subtract(before)
        return asked[f"{found.address}:{found.ports[0].mesh_port}"] / (asked.total() or 1)

    def _asked(self, service: str) -> Counter[str]:
        """Calls that each instance (``host:port``) of a service was sent from Vienna."""
        socket = Folders(self.machines["vienna"].data).sockets / "node.admin"
        target = f"/clusters?filter={quote(f'^outbound/{service}/')}"
        lines = asyncio.run(admin.ask(socket, target)).body.decode().splitlines()
        found = (line.split("::") for line in lines if "::rq_total::" in line)
        return Counter({words[1]: int(words[3]) for words in found})

    def _replaced(self, stage: Stage) -> Iterable[str]:
        mark = stage.mark()
        began = time.monotonic()
        said = stage.do(["agent", "--upgrade"], machine=self.machines["vienna"]).strip()
        promise("replaced" in said, f"nothing was replaced: {said}")
        yield f"{said}, after {time.monotonic() - began:.1f} s"
        stage.watch(6)
        yield none_failed(stage.calls(mark), "of the customers meanwhile")
