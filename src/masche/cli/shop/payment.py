"""Payment: takes money. Runs as two replicas, and as a canary of a new version with VERSION=v2."""

import os
import time
import uuid
from typing import Any

from httpd import NAME, Answer, application, serve

VERSION = os.environ.get("VERSION", "v1")


def handle(method: str, path: str, body: dict[str, Any], _headers: dict[str, str]) -> Answer:
    """POST /charge {amount} answers with a receipt."""
    time.sleep(0.003)
    if (method, path) == ("POST", "/charge"):
        return 200, {"receipt": uuid.uuid4().hex, "amount": body.get("amount", 0), "version": VERSION, "by": NAME}
    if (method, path) == ("GET", "/version"):
        return 200, {"version": VERSION, "by": NAME}
    return 404, {"error": f"no {method} {path}"}


app = application(handle)

if __name__ == "__main__":
    serve(handle)
