"""A RateLimitPolicy, from `masche apply` to the answer that a caller gets."""

from e2e.mesh import Mesh, service
from e2e.waiting import until
from masche.model.refs import Kind

POLICY = """
apiVersion: masche.dev/v1
kind: RateLimitPolicy
metadata: {name: calm, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  local: [{requests: 3, per: 24h, matches: [{path: {value: /some}}], key: {type: Client}}]
"""


def test_what_is_applied_is_counted_told_and_seen(mesh: Mesh) -> None:
    mesh.apply(service("orders"))
    orders = mesh.run("orders")
    web, cron = mesh.run("web"), mesh.run("cron")
    mesh.await_ready(orders, web, cron)
    until(lambda: web.reaches("orders") and cron.reaches("orders"), "orders answers")
    mesh.apply(POLICY)
    assert [web.call("orders", "/some").status for _ in range(3)] == [200] * 3
    # A connection that was open before the first limit was there is not counted; it is given up within a drain.
    until(lambda: web.call("orders", "/some").status == 429, "the tokens are spent")
    refused = web.call("orders", "/some")
    assert (refused.headers["x-masche-denied"], refused.body) == ("shop/calm local[0]", b"local_rate_limited")
    assert 0 < int(refused.headers["retry-after"]) <= 24 * 3600 / 3
    assert cron.call("orders", "/some").status == web.call("orders", "/other").status == 200
    told = mesh.masche("describe", "service", "orders", "-n", "shop").stdout
    assert "3 requests per 86400 s, for each client" in told
    why = mesh.masche("why", "shop/web", "orders", "--path", "/some")
    assert "LIMIT shop/calm local[0]: 3 requests per 86400 s, for each client" in why.stdout, why
    until(lambda: _denied(mesh) == ["shop/web"], "the refusals are seen as denials")
    mesh.delete(Kind.RATE_LIMIT_POLICY, "calm")
    until(lambda: web.reaches("orders", "/some"), "nothing is counted any more")


def _denied(mesh: Mesh) -> list[str]:
    return [edge.source for edge in mesh.client.edges(window=60).edges if edge.denied_per_second]
