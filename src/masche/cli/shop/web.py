"""Web: the shop's front end. GET / shows the shelves, POST /buy places an order."""

import html
from typing import Any

from httpd import NAME, Answer, Upstream, serve

_orders = Upstream("orders")
_inventory = Upstream("inventory")

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>The shop</title>
<style>body{{font:17px/1.5 system-ui;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#222}}
table{{width:100%;border-collapse:collapse}}td{{padding:.5rem 0;border-bottom:1px solid #ddd}}
button{{font:inherit;padding:.3rem .9rem;border:1px solid #2a6;border-radius:.4rem;background:#2a6;color:#fff}}
small{{color:#777}}output{{display:block;margin:1rem 0;min-height:1.5em}}</style>
<h1>The shop</h1><table>{rows}</table><output id="said"></output>
<small>stock by {replica}, page by {name}; every call between the services is mutual TLS</small>
<script>document.querySelectorAll('button').forEach(b => b.onclick = async () => {{
  const r = await fetch('/buy', {{method:'POST', headers:{{'content-type':'application/json'}},
    body: JSON.stringify({{item: b.dataset.item}})}});
  const a = await r.json();
  said.textContent = r.ok
    ? `order ${{a.order}} paid by payment ${{a.payment}}`
    : `${{r.status}}: ${{JSON.stringify(a)}}`;
}})</script></html>"""


def handle(method: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
    """The page, or an order."""
    match method, path.partition("?")[0]:
        case "GET", "/":
            status, answer = _inventory.call("GET", "/stock", None, headers)
            if status != 200 or isinstance(answer, str):
                return status, {"step": "inventory", "answer": answer}
            return 200, _page(answer)
        case "POST", "/buy":
            return _orders.call("POST", "/orders", {"item": body.get("item", "tea"), "amount": 5}, headers)
        case _:
            return 404, {"error": f"no {method} {path}"}


def _page(answer: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(item)}</td><td>{count}</td>"
        f'<td><button data-item="{html.escape(item)}">buy</button></td></tr>'
        for item, count in sorted(answer["stock"].items())
    )
    return PAGE.format(rows=rows, replica=html.escape(str(answer["replica"])), name=html.escape(NAME))


serve(handle)
