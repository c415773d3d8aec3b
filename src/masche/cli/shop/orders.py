"""Orders in Python, for machines without Node: the same service as ``orders.mjs``."""

from typing import Any

from httpd import NAME, Answer, Upstream, serve

_inventory = Upstream("inventory")
_payment = Upstream("payment")


def handle(method: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
    """POST /orders {item, amount}: reserve, then charge."""
    if (method, path) != ("POST", "/orders"):
        return 404, {"error": f"no {method} {path}"}
    status, reserved = _inventory.call("POST", "/reserve", {"item": body.get("item", "tea"), "count": 1}, headers)
    if status != 200 or isinstance(reserved, str):
        return status, {"step": "inventory", "answer": reserved}
    status, paid = _payment.call("POST", "/charge", {"amount": body.get("amount", 5)}, headers)
    if status != 200 or isinstance(paid, str):
        return status, {"step": "payment", "answer": paid}
    return 200, {
        "order": paid["receipt"][:8],
        "payment": paid["version"],
        "inventory": reserved["replica"],
        "by": NAME,
    }


serve(handle)
