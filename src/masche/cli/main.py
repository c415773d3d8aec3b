"""The command line: the table of all commands."""

import sys

import click

from masche.cli.lazy import Lazy, LazyGroup
from masche.version import VERSION

COMMANDS = {
    "demo": Lazy("masche.cli.demo:demo", "The whole story on one machine.", "masche.cli.demo"),
    "up": Lazy("masche.cli.up:up", "Start a control plane.", "masche.control.process"),
    "run": Lazy("masche.cli.run:run", "Run a command as a service of the mesh.", "masche.agent.runner"),
    "serve": Lazy("masche.cli.serve:serve", "Serve an ASGI or WSGI application, with no proxy.", "uvicorn"),
    "join": Lazy("masche.cli.join:join", "Let this machine into a mesh.", "masche.agent.join"),
    "agent": Lazy("masche.cli.agent:agent", "Run this machine's agent.", "masche.agent.process"),
    "gateway": Lazy("masche.cli.gateway:gateway", "Open a way in: carry out a Gateway.", "masche.agent.gateway"),
    "apply": Lazy("masche.cli.apply:apply", "Store resources and wait until they are live."),
    "get": Lazy("masche.cli.get:get", "List resources of a kind, or show one."),
    "describe": Lazy("masche.cli.describe:describe", "Everything known about one resource."),
    "delete": Lazy("masche.cli.delete:delete", "Delete resources and wait until they are gone everywhere."),
    "diff": Lazy("masche.cli.diff:diff", "What applying would change."),
    "why": Lazy("masche.cli.why:why", "Explain one call: identity, route, policy, endpoint."),
    "check": Lazy("masche.cli.check:check", "Look for what is wrong, each finding with its cure."),
    "status": Lazy("masche.cli.status:status", "The control plane and every proxy."),
    "top": Lazy("masche.cli.top:top", "Who calls whom, how often, how well and how fast."),
    "events": Lazy("masche.cli.events:events", "What happened."),
    "dashboard": Lazy("masche.cli.dashboard:dashboard", "A link that logs a browser in."),
    "token": Lazy("masche.cli.token:token", "Join tokens: create, list, revoke."),
    "cert": Lazy("masche.cli.cert:cert", "Certificates and the machines that hold them."),
    "version": Lazy("masche.cli.version:version", "Versions of this program and of the control plane."),
    "completion": Lazy("masche.cli.completion:completion", "Completion for bash, zsh or fish."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="masche", message="%(prog)s %(version)s")
def cli() -> None:
    """A service mesh: discovery, balancing, mutual TLS, policy, and a live picture of all of it."""


def run() -> None:
    """Run the command line with this process's arguments, and exit."""
    sys.exit(cli(prog_name="masche"))
