"""What people wrote and programs with ``masche.library`` do not carry out.

The library reads requests, so ports on which bytes are spoken are not its own; all else of a View it does.
``docs/library.md`` says the same. Invariant: nothing is said where no such program is concerned.
"""

from collections.abc import Iterator

from masche.compiler.proxyless.grpc_ignored import Ignored
from masche.model.refs import Kind, Origin, Ref
from masche.model.view import View

_WHERE = "spec.ports"


def ignored(view: View) -> Iterator[Ignored]:
    """Yield what of a View such a program does not carry out: what it receives, then what it says that it calls."""
    for port in view.inbound.ports:
        for service in () if port.protocol.is_http else port.services:
            yield Ignored(
                Origin(Ref(Kind.SERVICE, *service.owner), _WHERE),
                f"port {service.port} speaks TCP, and the library receives HTTP alone",
                "run the workload with --placement sidecar, or write appProtocol: http if that is what it speaks",
            )
    for way in view.outbound if view.vantage.dependencies is not None else ():
        if not way.protocol.is_http:
            yield Ignored(
                Origin(Ref(Kind.SERVICE, *way.service.owner), _WHERE),
                f"port {way.service.port} speaks TCP, and the library sends HTTP alone",
                "run the callers with --placement sidecar",
            )
