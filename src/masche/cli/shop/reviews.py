"""Reviews: what people wrote about things. It stands in another city than those who read it."""

from typing import Any

from httpd import NAME, Answer, serve

_REVIEWS = {"tea": ["warm", "wet"], "bread": ["crusty"], "wool": ["soft"], "needle": ["to the point"]}


def handle(method: str, path: str, _body: dict[str, Any], _headers: dict[str, str]) -> Answer:
    """GET /reviews lists all of them."""
    match method, path.partition("?")[0]:
        case "GET", "/reviews":
            return 200, {"reviews": _REVIEWS, "replica": NAME}
        case _:
            return 404, {"error": f"no {method} {path}"}


serve(handle)
