"""``masche token``: join tokens, each good for one machine, once."""

import time
from pathlib import Path

import click

from masche.cli.options import Duration, data_option, output_option
from masche.cli.output import Form, emit, note, say, table
from masche.cli.text import span, until


@click.group()
def token() -> None:
    """Join tokens: create, list, revoke. Each lets one machine in, once."""


@token.command()
@click.option(
    "-n", "--namespace", "namespaces", multiple=True, required=True, help="What it may run; * for any. Repeatable."
)
@click.option(
    "--service-account", "accounts", multiple=True, default=["*"], show_default="*", help="As whom. Repeatable."
)
@click.option("--ttl", type=Duration(), default="1h", show_default=True, help="Until when it must be used.")
@output_option
@data_option
def create(
    *, namespaces: tuple[str, ...], accounts: tuple[str, ...], ttl: float, form: Form | None, data: Path
) -> None:
    """Make a join string for one machine and print it. It is shown this once.

    On the machine: masche join < FILE, so that it is never in a list of processes.
    """
    from masche.api.access import TokenRequest
    from masche.api.client import Client

    created = Client.of(data).create_token(TokenRequest(namespaces=namespaces, service_accounts=accounts, ttl=ttl))
    if form is not None:
        emit(created, form)
        return
    say(created.join_string)
    note(f"token {created.token.id} is good once, for {span(ttl)}; give it to `masche join` on standard input")


@token.command("list")
@output_option
@data_option
def list_(*, form: Form | None, data: Path) -> None:
    """All tokens that are not spent yet."""
    from masche.api.client import Client

    found = Client.of(data).tokens()
    if form is not None:
        emit(found, form)
        return
    now = time.time()
    rows = [
        [one.id, ",".join(one.namespaces), ",".join(one.service_accounts), until(one.expires_at, now=now)]
        for one in found.tokens
    ]
    table(["id", "namespaces", "service accounts", "expires"], rows, empty="no unspent token")


@token.command()
@click.argument("identifier", metavar="ID")
@data_option
def revoke(identifier: str, *, data: Path) -> None:
    """Make a token worthless. Machines that joined with it stay; see `masche cert revoke`."""
    from masche.api.client import Client

    Client.of(data).revoke_token(identifier)
    say(f"token {identifier} is revoked")
