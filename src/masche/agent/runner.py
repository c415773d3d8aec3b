"""``masche run``: gets a seat from the agent of this machine, runs one command in it, and leaves in order.

The runner owns the command and nothing else. The agent may die and come back without the command noticing; the command
ends with the runner in any case. Leaving: out of traffic, until callers have it; then the command; then the proxy.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import assert_never

from masche.agent import command, environment, local
from masche.agent.capture.inside import UserError, user
from masche.agent.claimant import Claimant, NoSeatError, Say
from masche.agent.command import CommandError
from masche.agent.exposed import taken
from masche.agent.leaving import Leaving
from masche.agent.local import (
    AgentStatus,
    Claim,
    ClaimPort,
    Denied,
    Drained,
    Exposed,
    Leave,
    Phase,
    Progress,
    Proved,
    Ready,
    Released,
    Started,
    Upgraded,
)
from masche.agent.options import AgentOptions, RunOptions
from masche.agent.processes import Handle
from masche.model.labels import outside
from masche.model.vantage import Placement

MESH_FAILED = 125
"""Exit code when there was no seat, so that the command was never started (or had to be stopped under ``--strict``)."""

ENDING = (signal.SIGTERM, signal.SIGINT)
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
FORWARDED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)


def run(options: RunOptions, *, say: Say | None = None) -> int:
    """Run the command in the mesh and return its exit code.

    Codes of our own: 125 no seat, 126 the command cannot be run, 127 there is none, 128+n ended by signal n.
    ``say`` gets every line meant for a person; by default they go to standard error.
    """
    return asyncio.run(_run(options, say or to_stderr))


async def _run(options: RunOptions, say: Say) -> int:
    try:
        return await _Run(options, say).main()
    except UserError as error:
        say(str(error))
        return MESH_FAILED


def to_stderr(text: str) -> None:
    """Say something to the person at the terminal, apart from what the command says."""
    sys.stderr.write(f"masche: {text}\n")
    sys.stderr.flush()


class SignalledError(Exception):
    """A signal asked for the end before there was a seat."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def catch(*numbers: int) -> "asyncio.Queue[int]":
    """From now on these signals arrive in the queue, and nothing else happens to us."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


async def unless_signalled(claiming: "asyncio.Task[Ready]", signals: "asyncio.Queue[int]") -> Ready:
    """Wait for the seat, but not against the user's will. Raises SignalledError."""
    while True:
        signalled = asyncio.create_task(signals.get())
        await asyncio.wait({claiming, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if claiming.done():
            signalled.cancel()
            return claiming.result()
        if (number := signalled.result()) in ENDING:
            claiming.cancel()
            with suppress(asyncio.CancelledError):
                await claiming
            raise SignalledError(number)


class _Run:
    """One run, from claim to exit."""

    def __init__(self, options: RunOptions, say: Say) -> None:
        self.options = options
        self.say = say
        self._command: Handle | None = None
        self._signals = catch(*ENDING, *FORWARDED)
        self._leaving = Leaving()
        self._is_refused = False
        self._user = user(options.user) if options.user else None
        self._claimant = Claimant(
            AgentOptions(data=options.data, envoy=options.envoy, zone=options.zone, address=options.address),
            _claim_of(options),
            on_message=self._hear,
            on_loss=self._leaving.lost,
            greeting=lambda: Started(pid=self._command.process.pid) if self._command else None,
        )

    async def main(self) -> int:
        """Claim, run, leave."""
        claiming = asyncio.create_task(self._claimant.take(self.options.start_timeout, self.say))
        try:
            ready = await unless_signalled(claiming, self._signals)
            self._command = self._start(ready)
        except NoSeatError as error:
            self.say(str(error))
            return MESH_FAILED
        except SignalledError as error:
            return 128 + error.number
        except CommandError as error:
            self.say(str(error))
            return error.code
        return await self._live(self._command)

    def _start(self, ready: Ready) -> Handle:
        for service in ready.created:
            self.say(f"created the Service {service}, as there was none")
        if self.options.ports and (caution := outside(self.options.service, self.options.labels)):
            self.say(caution)
        if ready.namespace_path and not (self._user.uid if self._user else os.geteuid()):
            self.say("the command runs as root, who can go around the mesh: --user NAME runs it as somebody else")
        if not ready.namespace_path and not self.options.workload_address:
            self._warn_of_others()
        port = self.options.ports[0].port if self.options.ports else 0
        variables = environment.complete(os.environ, ready.environment, port)
        handle = command.start(
            self.options.command,
            variables,
            is_service=bool(self.options.ports),
            namespace_path=ready.namespace_path,
            user=self._user,
        )
        self._claimant.send(Started(pid=handle.process.pid))
        return handle

    def _warn_of_others(self) -> None:
        """Who has the port already would be taken for the command, and answer in its place."""
        for port in taken(each.port for each in self.options.ports):
            self.say(
                f"another process listens on port {port} already: it gets the calls to {self.options.service} unless "
                f"the command takes the port, too\n  fix: end that process, or choose another --port"
            )

    async def _live(self, running: Handle) -> int:
        listening = asyncio.create_task(self._claimant.listen())
        obeying = asyncio.create_task(self._obey_signals(running))
        await running.wait()
        obeying.cancel()
        if self.options.ports:
            await command.clear(running.process.pid, self.options.grace)
        code = command.exit_code(running)
        if not self._leaving.has_begun and code - 128 in CRASHES:
            self.say(f"the command was ended by {signal.Signals(code - 128).name}")
        self._leaving.begin()
        self._claimant.send(Leave(is_ended=True))
        self._claimant.release()
        await self._leaving.until_released()
        listening.cancel()
        await asyncio.gather(listening, obeying, return_exceptions=True)
        return MESH_FAILED if self._is_refused else code

    async def _obey_signals(self, running: Handle) -> None:
        """Ends a service in order, at the second request at once; everything else goes straight to the command."""
        leaving: asyncio.Task[None] | None = None
        while True:
            number = await self._signals.get()
            if number not in ENDING or not self.options.ports:
                running.send(number)
            elif leaving is None:
                leaving = asyncio.create_task(self._leave(running, number))
            else:
                self._leaving.drained()
                running.send(number)

    async def _leave(self, running: Handle, number: int) -> None:
        self._leaving.begin()
        self.say("leaving: waiting until no caller sends anything more")
        self._claimant.send(Leave())
        await self._leaving.until_drained()
        await command.stop(running, number, self.options.grace)

    def _hear(self, message: "local.FromAgent") -> None:
        match message:
            case Exposed() as exposed:
                self._on_exposed(exposed)
            case Drained(is_confirmed=is_confirmed):
                if not is_confirmed:
                    self.say("no word from all callers in time; stopping anyway")
                self._leaving.drained()
            case Released():
                self._leaving.released()
            case Phase(phase="UNHEALTHY", reason=reason):
                self.say(f"UNHEALTHY, takes no traffic: {reason}")
            case Denied(why=why, fix=fix):
                self.say(f"{why}\n  fix: {fix}" if fix else why)
            case Phase(phase=phase):
                self.say(phase)
            case Progress(text=text):
                self.say(text)
            case Ready() | AgentStatus() | Upgraded() | Proved():
                pass
            case _ as unreachable:
                assert_never(unreachable)

    def _on_exposed(self, exposed: Exposed) -> None:
        self.say(
            f"port {exposed.port} listens on {exposed.address}, so callers can go around the mesh\n"
            f"  fix: make the command listen on 127.0.0.1 only (HOST is set to it)"
        )
        if self.options.is_strict and not self._leaving.has_begun:
            self.say("stopping it, as --strict asks")
            self._is_refused = True
            self._signals.put_nowait(signal.SIGTERM)


def _claim_of(options: RunOptions) -> Claim:
    """What is asked of the agent; who serves without a proxy serves gRPC."""
    usual = "grpc" if options.placement is Placement.LIBRARY else ""
    return Claim(
        service=options.service,
        namespace=options.namespace,
        service_account=options.service_account or options.service,
        labels=dict(options.labels),
        ports=tuple(ClaimPort(port=one.port, name=one.name, protocol=one.protocol or usual) for one in options.ports),
        dependencies=options.dependencies,
        health=options.health,
        zone=options.zone,
        address=options.address,
        bind=options.bind,
        metrics_port=options.metrics_port,
        placement=options.placement,
        pid=os.getpid(),
        is_captured=options.is_captured,
        netns=options.netns,
        workload_address=options.workload_address,
        exclusions=options.exclusions,
        envoy=options.envoy,
    )
