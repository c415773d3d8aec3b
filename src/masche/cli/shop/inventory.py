"""Inventory: how many of each thing are in stock, and setting some aside. Runs as three replicas."""

import threading
import time
from typing import Any

from httpd import NAME, Answer, serve

_stock = {"tea": 120_000, "bread": 80_000, "wool": 40_000, "needle": 9_000_000}
_lock = threading.Lock()


def handle(method: str, path: str, body: dict[str, Any], _headers: dict[str, str]) -> Answer:
    """GET /stock lists; POST /reserve {item, count} sets aside."""
    time.sleep(0.002)
    match method, path.partition("?")[0]:
        case "GET", "/stock":
            return 200, {"stock": dict(_stock), "replica": NAME}
        case "POST", "/reserve":
            item, count = str(body.get("item", "")), int(body.get("count", 1))
            with _lock:
                if _stock.get(item, 0) < count:
                    return 409, {"error": f"not enough {item!r}", "replica": NAME}
                _stock[item] -= count
            return 200, {"reserved": item, "count": count, "replica": NAME}
        case _:
            return 404, {"error": f"no {method} {path}"}


serve(handle)
