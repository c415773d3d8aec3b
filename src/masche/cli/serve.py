"""``masche serve``: an ASGI or WSGI application as a service of the mesh, with the mesh in its own process."""

import difflib
import errno
import importlib
import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from masche.cli.failures import Failed
from masche.cli.options import Duration, Label, data_option
from masche.cli.output import note

if TYPE_CHECKING:
    from masche.library.life.residence import Resident

PATIENCE = 5.0
"""Seconds after which somebody is told that it is not ready yet, and for what it waits."""


@click.command()
@click.argument("application", metavar="MODULE:APPLICATION")
@click.option("--service", default="", help="The service it belongs to; MASCHE_SERVICE without.")
@click.option("-n", "--namespace", default="", help="The namespace; MASCHE_NAMESPACE or 'default' without.")
@click.option("--service-account", default="", help="As whom it calls; the service's name without.")
@click.option("--port", default="8080", show_default=True, metavar="[NAME:]PORT", help="Where it takes calls.")
@click.option("--host", default="0.0.0.0", show_default=True, help="The address on which it takes them.")  # noqa: S104 - the port is guarded by mutual TLS
@click.option("--label", "labels", multiple=True, type=Label(), help="A label of the workload. Repeatable.")
@click.option("--depends-on", "dependencies", multiple=True, help="A service that it calls; all without. Repeatable.")
@click.option(
    "--health", default="loop", show_default=True, help="How it is probed: http:/path, or loop: its loop turns."
)
@click.option("--zone", default="", help="The zone in which it runs.")
@click.option("--address", default="", help="Where other machines reach this one.")
@click.option("--wsgi", "is_wsgi", is_flag=True, help="It is a WSGI application, whatever it looks like.")
@click.option("--factory", "is_factory", is_flag=True, help="APPLICATION is a function that makes it.")
@click.option("--grace", type=Duration(), default="10s", show_default=True, help="For open requests at the end.")
@data_option
def serve(
    *,
    application: str,
    service: str,
    namespace: str,
    service_account: str,
    port: str,
    host: str,
    labels: tuple[tuple[str, str], ...],
    dependencies: tuple[str, ...],
    health: str,
    zone: str,
    address: str,
    is_wsgi: bool,
    is_factory: bool,
    grace: float,
    data: Path,
) -> None:
    """Serve an ASGI or WSGI application as a service of the mesh, with no proxy: `masche serve shop.orders:app`.

    It takes mutual TLS itself, knows its callers (masche.library.peer) and heeds the policies of the mesh. It gets
    calls once it is well, and at SIGTERM its callers are told, open requests end, and its exit code is 0.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # each connection that ends is a line in this terminal otherwise
    from masche.library import resident
    from masche.library.inbound.wsgi import as_asgi
    from masche.library.inbound.wsgi import is_wsgi as looks_like_wsgi
    from masche.library.life.options import port as read_port
    from masche.model.labels import outside

    at, path = read_port(port), _health(health)
    found = _loaded(application, is_factory=is_factory)
    app = as_asgi(found) if is_wsgi or looks_like_wsgi(found) else found
    given = {
        "service": service or ("" if service_account else _named_after(application)),
        "namespace": namespace,
        "service_account": service_account,
        "labels": dict(labels),
        "dependencies": dependencies,
        "zone": zone,
        "address": address,
    }
    chosen = resident.configure(data=data, **_said(given)).options
    if caution := outside(chosen.app, chosen.labels):
        note(f"masche: {caution}")

    def served(who: "Resident") -> None:
        threading.Thread(target=_tell, args=(who, f"{host}:{at.port}"), name="masche-tells", daemon=True).start()

    _run(app, port, host=host, health=path, grace=grace, served=served)


def _run(app: Any, port: str, **how: Any) -> None:
    from masche.library import uvicorn
    from masche.telemetry import logs

    lines = logs.configure(sys.stderr)
    try:
        uvicorn.run(app, port, **how)
    except OSError as error:
        raise _taken(error, how["host"], port) from error
    except SystemExit as error:
        if not error.code:
            raise
        raise Failed(
            "the application did not start; what it said stands above", fix="mend it, then try again"
        ) from None
    finally:
        lines.close()


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """What was not said is left to the environment, and then to the defaults."""
    return {name: value for name, value in given.items() if value}


def _tell(who: "Resident", where: str) -> None:
    """Say when it takes calls, and while it does not, what it waits for."""
    from masche.library.core.ports import NotReadyError

    said = ""
    while True:
        try:
            who.wait_ready(PATIENCE)
        except NotReadyError as error:
            waits = str(error).partition("waiting for ")[2] or str(error)
            if waits != said:
                note(f"masche: not ready yet: {waits}")
            said = waits
        else:
            note(f"masche: {who.workload} takes calls on {where} as {who.facade.identity.spiffe_id}")
            return


def _named_after(application: str) -> str:
    """A service name out of a module's: ``shop.orders:app`` -> ``orders``. MASCHE_SERVICE wins."""
    if os.environ.get("MASCHE_SERVICE") or os.environ.get("MASCHE_SERVICE_ACCOUNT"):
        return ""
    module = application.partition(":")[0].rpartition(".")[2]
    return re.sub(r"[^a-z0-9]+", "-", module.lower()).strip("-")[:63]


def _health(given: str) -> str:
    if given == "loop":
        return ""
    if not given.startswith("http:/") or not given.isprintable() or " " in given:
        raise click.BadParameter(f"{given!r} is neither http:/path nor loop", param_hint="--health")
    return given.removeprefix("http:")


def _taken(error: OSError, host: str, port: str) -> Failed:
    match error.errno:
        case errno.EADDRINUSE:
            number = port.rpartition(":")[2]
            return Failed(
                f"port {number} of {host} is taken by another program",
                fix=f"choose another with --port, or end what listens there (ss -ltnp 'sport = :{number}' names it)",
            )
        case errno.EADDRNOTAVAIL:
            return Failed(f"{host} is no address of this machine", fix="choose another with --host")
        case errno.EACCES:
            return Failed(f"port {port} is not for this user", fix="choose one above 1023")
        case _:
            return Failed(f"cannot take calls on {host}:{port}: {error.strerror or error}", fix="choose another --port")


# -- the application --------------------------------------------------------------------------------------------------


def _loaded(application: str, *, is_factory: bool) -> Any:
    """Import it. Raises Failed with the place of what is wrong."""
    name, colon, attribute = application.partition(":")
    if not (name and colon and attribute):
        raise click.UsageError(f"{application!r} does not say where the application is; write module:application")
    sys.path.insert(0, "")
    module = _imported(name)
    names = cast("dict[str, Any]", vars(module))
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Failed(f"{name} ({getattr(module, '__file__', '?')}) has no {attribute!r}", fix=_near(part, names))
        found = getattr(found, part)
    if is_factory:
        found = _attempted(found, f"{application} as a factory")
    if not callable(found):
        raise Failed(f"{application} is a {type(found).__name__} and no application", fix="name what the server calls")
    return found


def _imported(name: str) -> Any:
    try:
        is_there = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise Failed(
            f"there is no module {name!r} in {Path.cwd()}", fix="start it where the module is, or set PYTHONPATH"
        )
    return _attempted(lambda: importlib.import_module(name), f"importing {name}")


def _attempted(what: Callable[[], Any], doing: str) -> Any:
    """Run code of the application; what it raises is said with its own place."""
    try:
        return what()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{place.filename}:{place.lineno}"
        if isinstance(error, SyntaxError) and error.filename:
            at = f"{error.filename}:{error.lineno}"
        raise Failed(f"{doing} failed at {at}: {type(error).__name__}: {error}", fix="mend it there") from error


def _near(part: str, names: dict[str, Any]) -> str:
    usable = [name for name, value in names.items() if callable(value) and not name.startswith("_")]
    near = difflib.get_close_matches(part, usable, n=3, cutoff=0.3) or usable[:3]
    return f"perhaps you mean {' or '.join(near)}" if near else "name what the server calls"
