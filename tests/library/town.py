"""A small mesh for tests of clients: services whose instances are real servers on loopback, and one who calls them."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from library.answering import Answer, Answering, who
from library.core.scripted import Counted
from library.issuing import Issuing
from masche.library.core.channel import Channel
from masche.library.core.facade import CallOptions, Facade
from masche.library.core.ports import Known
from masche.library.core.tls import Certificates
from masche.model.calling import UNSAID, Traffic
from masche.model.refs import PortRef
from masche.model.told import PASSTHROUGH, Destination, Discovery
from masche.model.view import (
    Backend,
    Cluster,
    Endpoints,
    EndpointView,
    Forward,
    HeaderChange,
    Locality,
    PathRewrite,
    Protocol,
    RequestMatch,
    Retry,
    RewriteKind,
    Route,
    VirtualHost,
)

OUTSIDE = PortRef("", PASSTHROUGH, 0)


def passthrough() -> Known:
    """What is not of the mesh."""
    cluster = Cluster(service=OUTSIDE, protocol=Protocol.HTTP, identities=())
    to = Forward(backends=(Backend(cluster=OUTSIDE),))
    return Known(
        host=VirtualHost(hosts=("*",), routes=(Route(name="everything else", match=RequestMatch(), action=to),)),
        destinations={
            OUTSIDE.path: Destination(name=OUTSIDE.path, cluster=cluster, discovery=Discovery.PASSTHROUGH),
            PASSTHROUGH: Destination(name=PASSTHROUGH, cluster=cluster, discovery=Discovery.PASSTHROUGH),
        },
        endpoints={},
    )


def service(
    name: str, identity: str, *addresses: str, route: Route | None = None, traffic: Traffic = UNSAID, tls: bool = True
) -> Known:
    """What is told of one service, whose instances are at ``host:port``."""
    port = PortRef("shop", name, 80)
    views = tuple(
        EndpointView(address=host, port=int(number), workload=where, is_mtls=tls)
        for where in addresses
        for host, _, number in (where.rpartition(":"),)
    )
    to = Forward(backends=(Backend(cluster=port),))
    route = route or Route(name=f"shop/{name}", match=RequestMatch(), action=to)
    if isinstance(route.action, Forward) and not route.action.backends:
        route = replace(route, action=replace(route.action, backends=to.backends))
    cluster = Cluster(service=port, protocol=Protocol.HTTP, identities=(identity,), traffic=traffic)
    return Known(
        host=VirtualHost(hosts=(name,), routes=(route,)),
        destinations={port.path: Destination(name=port.path, cluster=cluster)},
        endpoints={port.path: Endpoints(service=port, localities=(Locality(zone="", priority=0, endpoints=views),))},
    )


def to(name: str, **said: Any) -> Forward:
    return Forward(backends=(Backend(cluster=PortRef("shop", name, 80)),), **said)


def within(name: str, timeout: float) -> Route:
    """A route whose requests have so many seconds, and are not repeated."""
    return Route(name=name, match=RequestMatch(), action=to(name, timeout=timeout, retry=Retry(attempts=0)))


def never_idle(name: str, seconds: float) -> Route:
    """A route on whose requests something must move every so many seconds."""
    return Route(name=name, match=RequestMatch(), action=to(name, idle_timeout=seconds))


def repeating(name: str) -> Route:
    """A route whose idempotent requests are repeated when a try of 0.2 s was not answered."""
    return Route(name=name, match=RequestMatch(), action=to(name, per_try_timeout=0.2, retry=Retry(attempts=3)))


def never_repeating(name: str) -> Route:
    return Route(name=name, match=RequestMatch(), action=to(name, retry=Retry(attempts=0)))


def changing(name: str) -> Route:
    """A route that changes what is sent and what is answered."""
    rewrite = PathRewrite(kind=RewriteKind.PREFIX, value="/v2/")
    return Route(
        name=name,
        match=RequestMatch(),
        action=to(name, host_rewrite="other", path_rewrite=rewrite),
        request_headers=HeaderChange(set=(("x-sent", "2"),)),
        response_headers=HeaderChange(add=(("x-added", "1"), ("set-cookie", "stick=here"))),
    )


def settled(town: "Town") -> bool:
    """Is nothing under way that has not been settled?"""
    names = [name for known in town.told.values() for name in known.destinations]
    channels = [channel for name in names if (channel := town.facade.channels.get(name)) is not None]
    return all(
        channel.gate.active == 0 and all(load == 0 for load in pending(channel).values()) for channel in channels
    )


def pending(channel: Channel) -> dict[str, int]:
    """How many attempts are under way at each instance."""
    balancer = channel.callee.balancer
    return {each.id: balancer.gauge(each.id).outstanding for each in balancer.membership.endpoints}


class Town:
    """``told`` by authority; whoever is not in it is outside. ``facade`` is the caller's, the workload ``web``."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.issuing = Issuing(folder / "authority")
        self.told: dict[str, Known] = {}
        self.silent: set[str] = set()
        self.outside = passthrough()
        self.counted = Counted()
        self.identity: Certificates = self.issuing.certificates("web")
        self.facade = Facade(
            knowledge=self,
            identity=self.identity,
            recorder=self.counted,
            options=CallOptions(caller="web", patience=0.2),
        )
        self._stack = stack
        self._instances: list[Answering] = []

    def known(self, authority: str) -> Known | None:
        return None if authority in self.silent else self.told.get(authority, self.outside)

    def want(self, authority: str) -> "Future[Known]":
        return Future()

    def waiting_for(self) -> str:
        return "the control plane at 127.0.0.1:1"

    def instance(self, workload: str, answer: Answer | None = None, port: int = 0) -> Answering:
        """Start a server that shows the identity of ``workload``."""
        context = self.issuing.certificates(workload).server_context()
        running = Answering(context, answer or who(workload), port=port)
        self.keep(running)
        return running

    def keep(self, running: Answering) -> None:
        """End a server with the town."""
        self._stack.callback(running.close)
        self._instances.append(running)

    @property
    def is_quiet(self) -> bool:
        """Is no connection to any instance open?"""
        return not any(each.open for each in self._instances)

    def serve(self, name: str, *instances: Answering, traffic: Traffic = UNSAID, route: Route | None = None) -> None:
        """Tell of a service."""
        addresses = [f"127.0.0.1:{each.port}" for each in instances]
        self.told[name] = service(name, self.issuing.name(name), *addresses, traffic=traffic, route=route)


@contextmanager
def living(folder: Path) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(folder, stack)
