"""``masche up``: a control plane in the foreground."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from masche.cli.options import Duration, data_option
from masche.cli.output import note, say
from masche.control.options import API_PORT, METRICS_PORT, XDS_PORT, UpOptions

if TYPE_CHECKING:
    from masche.control.process import Started

PORT = click.IntRange(0, 65535)
SHORTEST_LEASE, LONGEST_LEASE = 2.0, 3600.0
"""Seconds. Agents are heard of once a second; who is silent for an hour is not there."""


@click.command()
@data_option
@click.option("--listen", default="127.0.0.1", show_default=True, help="Address for agents of other machines.")
@click.option("--xds-port", type=PORT, default=XDS_PORT, show_default=True, help="Port for agents.")
@click.option("--api-address", default="127.0.0.1", show_default=True, help="Address of API and dashboard.")
@click.option("--api-host", "api_hosts", multiple=True, help="A name by which browsers may also reach it. Repeatable.")
@click.option("--api-port", type=PORT, default=API_PORT, show_default=True, help="Port of API and dashboard.")
@click.option("--metrics-port", type=PORT, default=METRICS_PORT, show_default=True, help="Port of its own metrics.")
@click.option(
    "--trust-domain", default="mesh.local", show_default=True, help="Of all identities; fixed at first start."
)
@click.option(
    "--static",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="A folder of YAML that is watched and carried out; nothing else can be applied then.",
)
@click.option("--leaf-ttl", type=Duration(), default="24h", show_default=True, help="Life of a workload's certificate.")
@click.option("--lease", type=Duration(), default="15s", show_default=True, help="How long a silent agent is believed.")
@click.pass_context
def up(
    ctx: click.Context,
    *,
    data: Path,
    listen: str,
    xds_port: int,
    api_address: str,
    api_port: int,
    api_hosts: tuple[str, ...],
    metrics_port: int,
    trust_domain: str,
    static: Path | None,
    leaf_ttl: float,
    lease: float,
) -> None:
    """Start a control plane, print where its dashboard is, and run until Ctrl-C. A port of 0 takes a free one."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # whoever knocks at a port writes into this terminal otherwise
    from masche.control.process import main
    from masche.identity.authority import MAX_LIFETIME
    from masche.identity.rotation import MIN_LIFETIME

    if not MIN_LIFETIME <= leaf_ttl <= MAX_LIFETIME:
        raise click.BadParameter("a certificate lives 20s at least and 366d at most", param_hint="--leaf-ttl")
    if not SHORTEST_LEASE <= lease <= LONGEST_LEASE:
        raise click.BadParameter("a lease is 2s at least and 1h at most", param_hint="--lease")
    options = UpOptions(
        data=data,
        listen=listen,
        xds_port=xds_port,
        api_address=api_address,
        api_port=api_port,
        api_hosts=api_hosts,
        metrics_port=metrics_port,
        trust_domain=trust_domain,
        static=static,
        leaf_ttl=leaf_ttl,
        lease=lease,
    )
    ctx.exit(main(options, announce))


def announce(started: "Started") -> None:
    """Say where it is. The login link goes to whoever started it and to nobody else."""
    say(f"control plane ready, data in {started.data}")
    say(f"machines join at {started.joining_address}")
    say(f"dashboard        {started.api.url}")
    say(f"log in, once     {started.api.login_link(now=time.time())}")
    note("Ctrl-C ends it; the proxies keep serving without it")
