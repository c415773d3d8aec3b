"""What an agent sees of a real Envoy, and what that Envoy keeps of what it was told."""

import asyncio
import json

from envoy_rig import Authority, Envoy, free_port, secrets, wait_until
from views import at, cluster, identity, port, seat, view

from masche.agent import sight
from masche.compiler.envoy import clusters
from masche.compiler.envoy.listeners import listeners
from masche.model.vantage import Capture, Placement
from masche.wire import types

GIVEN_BACK_BYTES = 4 * 1024 * 1024
"""Four hundred clusters take twenty."""

SECRETS = secrets(Authority.named("root"), identity("web"))


def test_what_was_sent_and_is_not_used_yet_is_named(envoy: Envoy) -> None:
    """A cluster waits for its endpoints, a listener for its routes; what is used already is not named."""
    used, waiting = (clusters.cluster(cluster(port(name))) for name in ("orders", "stock"))
    envoy.put([used, at(port("orders"), 1), *SECRETS])
    made = listeners(
        view("web", placement=Placement.NODE), seat("web", capture=Capture(port=free_port(), inbound_port=0))
    )
    listener = next(each for each in made if each.type_url == types.LISTENER)
    envoy.ads.put([used, at(port("orders"), 1), waiting, listener, *SECRETS])
    wait_until(lambda: seen(envoy) == tuple(sorted((waiting.name, listener.name))), "both are warming")


def test_an_envoy_gives_back_what_it_does_not_use_any_more(envoy: Envoy) -> None:
    services = [port(f"service-{number}") for number in range(400)]
    envoy.put([*(clusters.cluster(cluster(each)) for each in services), *(at(each, 1) for each in services), *SECRETS])
    envoy.put(())
    wait_until(lambda: memory(envoy)["pageheap_unmapped"] >= GIVEN_BACK_BYTES, "some of what they took is the system's")


def seen(envoy: Envoy) -> tuple[str, ...]:
    return asyncio.run(sight.warming(envoy.folder / "admin.sock"))


def memory(envoy: Envoy) -> dict[str, int]:
    return {name: int(value) for name, value in json.loads(envoy.admin("/memory")).items()}
