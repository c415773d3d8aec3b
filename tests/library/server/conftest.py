"""An authority, a server's certificates and callers' TLS."""

import ssl
from collections.abc import Callable

import pytest

from library.issuing import Issuing, bare_client
from masche.library.core.tls import Certificates

Caller = Callable[[str], ssl.SSLContext]


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Issuing:
    return Issuing(tmp_path_factory.mktemp("authority") / "a")


@pytest.fixture
def ours(mesh: Issuing) -> Certificates:
    return mesh.certificates("orders")


@pytest.fixture(scope="session")
def caller(mesh: Issuing) -> Caller:
    """TLS of a workload by its name."""

    def made(workload: str) -> ssl.SSLContext:
        return bare_client(mesh.roots, *mesh.pair(workload))

    return made
