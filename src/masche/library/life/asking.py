"""How a process asks the control plane: as whom, and beginning with what it remembers of each resource.

Loads HTTP/2 and Envoy's messages, and is itself loaded by the resident's thread, so that an import of the library costs
neither. Invariant: what is remembered is never taken for what a control plane said later.
"""

from collections.abc import Callable
from random import Random

from masche.library.life.memory import Memory
from masche.rpc.channel import Channel
from masche.version import VERSION
from masche.wire.decode.decoders import decoders
from masche.wire.discovery import Node, encode_node
from masche.xds.client import ControlPlane, Watch, XdsClient
from masche.xds.client_words import Key, Resource, Standing


class Client(XdsClient):
    """An xDS client that begins with what is remembered of each resource when it is asked for.

    ``name`` is the control plane's for people, ``channel`` opens a way to it; ``node``, asked for each stream, is us.
    """

    def __init__(
        self,
        name: str,
        channel: Callable[[], Channel],
        memory: Memory,
        *,
        node: Callable[[], Node],
        rng: Random,
    ) -> None:
        plane = ControlPlane(name=name, open=channel)
        super().__init__((plane,), node=lambda: encode_node(node()), decoders=memory.decoders(decoders), rng=rng)
        self._memory = memory

    def watch(self, type_url: str, name: str, heard: Callable[[Resource], None] | None = None) -> Watch:
        """Ask for a resource."""
        watch = super().watch(type_url, name, heard)
        if watch.resource.standing is Standing.ASKED:
            key: Key = (type_url, name)
            value = self._memory.recall(key, decoders)
            if value is not None:
                self.subscriber.preload(type_url, name, value)
                watch.resource = self.subscriber.found(*key) or watch.resource
        return watch


def node(proxy: str, *, service: str, zone: str) -> Node:
    """How we say who we are, which any control plane understands."""
    return Node(id=proxy, cluster=service, zone=zone, agent="masche", agent_version=VERSION)
