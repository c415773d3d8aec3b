"""``masche gateway``: a seat of the machine's agent that carries out a Gateway, or carries detours between zones, held
in the foreground.

It has no command: its Envoy is the application. Leaving is the same as everywhere: out of traffic first, Envoy last.
"""

import asyncio
import os

from masche.agent import local
from masche.agent.claimant import Claimant, NoSeatError, Say
from masche.agent.leaving import Leaving
from masche.agent.listen import ListenError, parse_listen
from masche.agent.local import (
    Claim,
    ClaimPort,
    Denied,
    Drained,
    Leave,
    Phase,
    Progress,
    Ready,
    Released,
)
from masche.agent.occupancy import EAST_WEST
from masche.agent.options import AgentOptions, GatewayOptions
from masche.agent.runner import (
    ENDING,
    MESH_FAILED,
    SignalledError,
    catch,
    to_stderr,
    unless_signalled,
)
from masche.agent.whereabouts import TUNNEL_PORT
from masche.model.vantage import Placement


def run(options: GatewayOptions, *, say: Say | None = None) -> int:
    """Carry out the Gateway until SIGTERM or SIGINT; returns 0, or 125 when there was no seat."""
    say = say or to_stderr
    try:
        if options.listen or not options.is_east_west:
            parse_listen(options.listen)
    except ListenError as error:
        say(str(error))
        return MESH_FAILED
    return asyncio.run(_run(options, say))


async def _run(options: GatewayOptions, say: Say) -> int:
    return await _Gateway(options, say).main()


class _Gateway:
    """One gateway, from claim to exit."""

    def __init__(self, options: GatewayOptions, say: Say) -> None:
        self._options = options
        self._say = say
        self._signals = catch(*ENDING)
        self._leaving = Leaving()
        self._claimant = Claimant(
            AgentOptions(data=options.data, envoy=options.envoy, zone=options.zone, address=options.address),
            claim_of(options),
            on_message=self._hear,
            on_loss=self._leaving.lost,
        )

    async def main(self) -> int:
        """Claim, serve, leave."""
        claiming = asyncio.create_task(self._claimant.take(self._options.start_timeout, self._say))
        try:
            ready = await unless_signalled(claiming, self._signals)
        except NoSeatError as error:
            self._say(str(error))
            return MESH_FAILED
        except SignalledError as error:
            return 128 + error.number
        self._say(_said(self._options, ready))
        listening = asyncio.create_task(self._claimant.listen())
        await self._signals.get()
        await self._leave()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        return 0

    async def _leave(self) -> None:
        """In order, unless asked a second time."""
        self._leaving.begin()
        self._claimant.send(Leave())
        again = asyncio.create_task(self._signals.get())
        drained = asyncio.create_task(self._leaving.until_drained())
        await asyncio.wait({again, drained}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        drained.cancel()
        self._claimant.release()
        await self._leaving.until_released()

    def _hear(self, message: "local.FromAgent") -> None:
        match message:
            case Drained():
                self._leaving.drained()
            case Released():
                self._leaving.released()
            case Denied(why=why, fix=fix):
                self._say(f"{why}\n  fix: {fix}" if fix else why)
            case Progress(text=text) | Phase(phase=text):
                self._say(text)
            case _:
                pass


def _said(options: GatewayOptions, ready: Ready) -> str:
    if options.is_east_west:
        return f"{ready.workload} carries detours between zones, on {', '.join(ready.listens)}"
    return f"Gateway {options.namespace}/{options.gateway} listens on {options.listen}"


def claim_of(options: GatewayOptions) -> Claim:
    """What is asked of the agent: a seat without an application."""
    if options.is_east_west:
        return _east_west(options)
    account = options.service_account or options.gateway
    return Claim(
        service=options.gateway,
        namespace=options.namespace,
        service_account=account,
        health="none",
        zone=options.zone,
        address=options.address,
        placement=Placement.GATEWAY,
        gateway=options.gateway,
        listen=options.listen,
        pid=os.getpid(),
        envoy=options.envoy,
    )


def _east_west(options: GatewayOptions) -> Claim:
    """A gateway between zones: its one port is where tunnels are taken."""
    return Claim(
        service=EAST_WEST,
        namespace=options.namespace,
        service_account=EAST_WEST,
        ports=(ClaimPort(port=TUNNEL_PORT, name="tunnels", protocol="tcp"),),
        health="none",
        zone=options.zone,
        address=options.address,
        placement=Placement.GATEWAY,
        listen=options.listen,
        is_east_west=True,
        pid=os.getpid(),
        envoy=options.envoy,
    )
