"""From a View to Blobs in the dialect of whoever reads them: Envoy, gRPC's own xDS client, or our library.

Invariant: what two dialects say alike is one Blob, made once.
"""

from typing import assert_never

from masche.compiler.envoy import listeners as of_envoy
from masche.compiler.envoy import shared
from masche.compiler.proxyless import grpc, grpc_endpoints, library
from masche.model.blob import Blob
from masche.model.vantage import Dialect, Seat
from masche.model.view import Endpoints, View


def blobs(view: View) -> tuple[Blob, ...]:
    """Return all that depends on the View alone."""
    match view.vantage.dialect:
        case Dialect.ENVOY:
            return shared.blobs(view)
        case Dialect.LIBRARY:
            return library.blobs(view)
        case Dialect.GRPC:
            return grpc.blobs(view)
        case _:
            assert_never(view.vantage.dialect)


def listeners(view: View, seat: Seat) -> tuple[Blob, ...]:
    """Return what one workload on one proxy adds to that: the only entry that sees a Seat."""
    match view.vantage.dialect:
        case Dialect.ENVOY:
            return of_envoy.listeners(view, seat)
        case Dialect.LIBRARY:
            return library.listeners(view, seat)
        case Dialect.GRPC:
            return grpc.listeners(view, seat)
        case _:
            assert_never(view.vantage.dialect)


def instances(dialect: Dialect, found: Endpoints, encoded: Blob) -> Blob:
    """Return the instances of a port, which are ``encoded`` as a proxy reads them."""
    match dialect:
        case Dialect.ENVOY | Dialect.LIBRARY:
            return encoded
        case Dialect.GRPC:
            return encoded if grpc_endpoints.reachable(found) is found else grpc_endpoints.blob(found)
        case _:
            assert_never(dialect)


def asks_for_all(dialect: Dialect) -> bool:
    """Say whether it asks for everything, and has to be kept from a mesh that is large; others ask by name."""
    return dialect is Dialect.ENVOY
