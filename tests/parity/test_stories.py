"""Every story's requests by sidecars and by the library: the same verdicts, the same backends, the same headers.

A story is carried out by real Envoys with mutual TLS, and beside them by servers of the library. The reference is a
sidecar that calls a sidecar; the library calls sidecars, and it calls itself.
"""

import pytest

from live.mesh import PROXIES, Live, here
from masche.compiler.replay import explain
from masche.testing.check_placement import Asked, check_placement
from parity.placements import Libraries, Sidecars
from parity.serving import SERVERS, serving
from stories import loader
from stories.test_stories_in_envoy import Ways

ROUNDS = 30
"""So often at least is a request put that may go to one of several instances."""


def requests(name: str) -> list[loader.Asked]:
    """What the library can be asked: all but what comes in by a Gateway, which is none of its placements."""
    return [asked for asked in loader.story(name).requests if not asked.gateway]


STORIES = [name for name in loader.names() if requests(name)]


@pytest.mark.parametrize("name", STORIES)
def test_the_library_does_with_a_story_what_sidecars_do(name: str, live: Live):
    mesh = loader.read_mesh(here((loader.ROOT / name / "mesh.yaml").read_text()), file=name)
    live.load(mesh, {asked.source for asked in requests(name)})
    every = [found for asked in requests(name) if (found := put(live, asked))]
    with Sidecars(live) as sidecars:
        with Libraries(live) as calling:
            check_placement(calling, sidecars, every)
        with serving(live), Libraries(live, moved=(PROXIES, SERVERS)) as calling_and_called:
            check_placement(calling_and_called, sidecars, every)


def put(live: Live, asked: loader.Asked) -> Asked | None:
    """The request as it is put to a placement; None when it is no request: bytes to a TCP port."""
    call, standing = asked.call, live.standing[asked.source]
    way = standing.way(call.host, call.port)
    if way and not way.protocol.is_http:
        return None
    said = explain(live.mesh, live.mesh.workloads[asked.source], call)
    ways = Ways(live, standing, asked, said)
    instances = sum(len(live.instances(each)) for each in ways.backends)
    clusters = {each.service: each for each in standing.view.clusters}
    return Asked(
        caller=str(asked.source),
        authority=f"{call.host}:{call.port}" if call.port not in {0, 80} else call.host,
        method=call.method,
        target=call.path,
        headers=call.headers,
        rounds=ROUNDS if ways.is_by_chance or instances > 1 else 1,
        is_sticky=any(clusters[each].traffic.hash_on is not None for each in ways.backends),
    )
