"""What people write in any language is compared and sent as the same bytes in every placement."""

from live.mesh import PROXIES, Live, here
from masche.model.refs import Name
from masche.testing.check_placement import Asked, check_placement
from parity.placements import Libraries, Sidecars
from parity.serving import SERVERS, serving
from parity.shop import service, workload
from stories.loader import read_mesh

MESH = (
    service("orders")
    + workload("web", "127.0.1.1")
    + workload("orders", "127.0.1.2")
    + """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nowhere, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{when: [{key: "request.headers[x-from]", values: [Łódź, "Kö*", "*ń"]}]}]
"""
)
HEADERS = [
    *(("x-city", "Zürich"), ("x-city", "Z\udcfcrich"), ("x-city", "ürich"), ("x-city", "\udcff"), ("x-city", "東京")),
    *(("x-from", "Łódź"), ("x-from", "Köln"), ("x-from", "Poznań"), ("x-from", "K\udcf6ln"), ("x-from", "Lodz")),
]


def test_letters_of_all_languages_are_the_same_bytes_everywhere(live: Live):
    live.load(read_mesh(here(MESH), file="mesh.yaml"), {Name("shop", "web-1")})
    every = [Asked(caller="shop/web-1", authority="orders", headers=(header,)) for header in HEADERS]
    with Sidecars(live) as sidecars:
        assert sorted({sidecars.ask(asked).status for asked in every}) == [200, 403]
        with Libraries(live) as calling:
            check_placement(calling, sidecars, every)
        with serving(live), Libraries(live, moved=(PROXIES, SERVERS)) as calling_and_called:
            check_placement(calling_and_called, sidecars, every)
