"""What a person asks of ``masche up``, as a value: the command line fills it in, ``control.process`` carries it out."""

from dataclasses import dataclass
from pathlib import Path

XDS_PORT = 15012
METRICS_PORT = 15014
API_PORT = 15080


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """``masche up``.

    ``data`` is the folder of the store, the authority's keys and the sockets. ``listen`` is the address for agents of
    other machines over mutual TLS (loopback by default, so that only this machine can join). Ports: 0 takes a free one.
    ``static`` is a folder of YAML that is the source of resources beside what agents register; None stores them in
    SQLite. ``api_hosts`` are names by which people reach the API beside loopback's and its address.
    Times in seconds: ``leaf_ttl`` is the life of a workload's certificate, ``lease`` how long a silent workload counts
    as alive.
    """

    data: Path
    listen: str = "127.0.0.1"
    xds_port: int = XDS_PORT
    api_address: str = "127.0.0.1"
    api_port: int = API_PORT
    api_hosts: tuple[str, ...] = ()
    metrics_port: int = METRICS_PORT
    trust_domain: str = "mesh.local"
    static: Path | None = None
    leaf_ttl: float = 86400.0
    lease: float = 15.0
