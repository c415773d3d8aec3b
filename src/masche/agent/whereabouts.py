"""Where a proxy listens, from where it calls, and where others are told to reach it. Pure.

They are one address unless somebody says otherwise: a machine behind address translation is reached at another than it
has, and one with several addresses may want its calls to come from a certain one.
"""

import ipaddress
from dataclasses import dataclass

from masche.agent.listen import Listen, parse_listen
from masche.agent.local import Claim
from masche.model.vantage import Placement

TUNNEL_PORT = 15008
"""Where a gateway between zones takes tunnels, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """``bind`` is where it listens, ``advertised`` where it is reached, ``source`` whence it calls ("": as routed).

    ``port`` is the one and only on which it must listen, 0 for whichever is free.
    """

    bind: str
    advertised: str
    source: str = ""
    port: int = 0


def whereabouts(claim: Claim, host: str) -> Whereabouts:
    """Say where the proxy of a claim stands on a machine that others reach at ``host``.

    Raises ListenError.
    """
    if claim.placement is Placement.GATEWAY and not claim.is_east_west:
        return Whereabouts(bind=parse_listen(claim.listen).address, advertised=claim.address or host)
    asked = parse_listen(claim.listen) if claim.listen else Listen(claim.bind, 0)
    own = "" if not asked.address or ipaddress.ip_address(asked.address).is_unspecified else asked.address
    advertised = claim.address or own or host
    return Whereabouts(bind=asked.address or advertised, advertised=advertised, source=own, port=asked.port)
