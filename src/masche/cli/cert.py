"""``masche cert``: the certificates in force and the machines that hold credentials."""

import time
from pathlib import Path

import click

from masche.cli.options import data_option, output_option
from masche.cli.output import Form, emit, say, styled, table
from masche.cli.text import until


@click.group()
def cert() -> None:
    """Certificates in force, and the machines that hold credentials."""


@cert.command()
@output_option
@data_option
def show(*, form: Form | None, data: Path) -> None:
    """All certificates in force: the authorities', the machines', the workloads'."""
    from masche.api.client import Client

    found = Client.of(data).certificates()
    if form is not None:
        emit(found, form)
        return
    now = time.time()
    rows = [
        [one.use, one.identity, one.holder, until(one.expires_at, now=now), one.serial, one.fingerprint[:16]]
        for one in found.certificates
    ]
    table(["use", "identity", "holder", "expires", "serial", "sha256"], rows, empty="no certificate is in force")


@cert.command()
@output_option
@data_option
def machines(*, form: Form | None, data: Path) -> None:
    """All machines that joined and what their credentials allow."""
    from masche.api.client import Client

    found = Client.of(data).machines()
    if form is not None:
        emit(found, form)
        return
    now = time.time()
    rows = [
        [
            one.machine,
            styled("revoked", "red") if one.is_revoked else "connected" if one.is_connected else "absent",
            ",".join(one.namespaces),
            ",".join(one.service_accounts),
            str(one.workloads),
            until(one.expires_at, now=now),
        ]
        for one in found.machines
    ]
    headings = ["machine", "state", "namespaces", "service accounts", "workloads", "expires"]
    table(headings, rows, empty="no machine has joined")


@cert.command()
@click.argument("machine")
@data_option
def revoke(machine: str, *, data: Path) -> None:
    """Refuse a machine from now on: close its streams, and send nobody to what it runs.

    It gets no certificate any more. Those that its workloads hold are good for calling others until they end, a day
    after they were made by default (`masche up --leaf-ttl`): deny their service accounts with a policy if that matters.
    """
    from masche.api.client import Client

    Client.of(data).revoke_machine(machine)
    say(f"machine {machine} is revoked")
