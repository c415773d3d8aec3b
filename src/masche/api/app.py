"""The API as one ASGI application: guard, routes and the dashboard's files around a Plane.

Invariant: whatever happens inside, the answer is one of ours: JSON with a code, a reason and a cure.
"""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from masche.api.answers import BadRequestError, failure, refusal
from masche.api.credentials import Credentials
from masche.api.door import LOGIN_PAGE, Guard, Net, refused
from masche.api.guard import BAD_CREDENTIALS, LOOPBACK_HOSTS, GuessLimit
from masche.api.live import Streams
from masche.api.messages import Error
from masche.api.plane import Plane, PlaneError
from masche.api.routes import Routes, WrongCodeError

STATIC_DIR = Path(__file__).parent / "static"
_LOGIN_SCRIPT = (Path(__file__).parent / "login.js").read_bytes()


def app(
    plane: Plane,
    *,
    credentials: Credentials,
    allowed_hosts: Iterable[str] = (),
    static_dir: Path = STATIC_DIR,
    streams: Streams | None = None,
) -> Starlette:
    """Make the application.

    ``allowed_hosts`` are the names, beyond loopback, under which it may be asked for; the dashboard in ``static_dir``
    is served at ``/`` if it was built. ``streams`` is what a server closes when it stops.
    """
    limit = GuessLimit()
    routes = Routes(plane=plane, credentials=credentials, streams=streams or Streams())

    async def on_wrong_code(request: Request, _error: Exception) -> Response:
        return refused(BAD_CREDENTIALS, request.scope, limit)

    made = Starlette(
        routes=[*routes.table(), *_pages(static_dir)],
        exception_handlers={
            PlaneError: _on_plane_error,
            BadRequestError: _on_bad_request,
            HTTPException: _on_http_error,
            WrongCodeError: on_wrong_code,
        },
    )
    made.router.redirect_slashes = False
    hosts = LOOPBACK_HOSTS | {host.lower() for host in allowed_hosts}
    # The net lies inside the guard, which is added last and so stands outermost: nothing is looked at before it.
    made.add_middleware(Net)
    made.add_middleware(Guard, credentials=credentials, allowed_hosts=hosts, limit=limit)
    return made


def _pages(static_dir: Path) -> Iterator[BaseRoute]:
    yield Route("/login", _login_page)
    yield Route("/login.js", _login_script)
    if (static_dir / "index.html").is_file():
        yield Mount("/", StaticFiles(directory=static_dir, html=True))


async def _login_page(_request: Request) -> Response:
    return HTMLResponse(LOGIN_PAGE, headers={"Cache-Control": "no-store"})


async def _login_script(_request: Request) -> Response:
    return Response(_LOGIN_SCRIPT, media_type="text/javascript", headers={"Cache-Control": "no-store"})


async def _on_plane_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PlaneError)
    return refusal(error)


async def _on_bad_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequestError)
    code = error.status.phrase.lower().replace(" ", "-")
    return failure(error.status, Error(code=code, message=error.message, fix=error.fix))


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    fix = "the API's routes are listed in docs/api.md" if status == HTTPStatus.NOT_FOUND else ""
    body = Error(code=status.phrase.lower().replace(" ", "-"), message=status.description or status.phrase, fix=fix)
    response = failure(status, body)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
