"""``masche run``: gets a seat from the agent of this machine, runs one command in it, and leaves in order.

The runner owns the command and nothing else. The agent may die and come back without the command noticing; the command
ends with the runner in any case. Leaving: out of traffic, until callers have it; then the command; then the proxy.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import assert_never

from masche.agent import command, environment, launch, local
from masche.agent.command import CommandError
from masche.agent.folders import FolderError
from masche.agent.launch import NoAgentError
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
    ProtocolError,
    Ready,
    Release,
    Released,
    Started,
)
from masche.agent.options import AgentOptions, RunOptions
from masche.agent.processes import Handle

MESH_FAILED = 125
"""Exit code when there was no seat, so that the command was never started (or had to be stopped under ``--strict``)."""

DRAIN_SECONDS = 20.0
"""The longest wait for callers to have heard that the workload leaves; the agent's own bound is shorter."""

RELEASE_SECONDS = 15.0
"""The longest wait for the proxy to end."""

RECLAIM_PAUSE = 0.2
"""Seconds between attempts to bring a dead agent back."""

ENDING = (signal.SIGTERM, signal.SIGINT)
FORWARDED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)

Say = Callable[[str], None]


def run(options: RunOptions, *, say: Say | None = None) -> int:
    """Run the command in the mesh and return its exit code.

    Codes of our own: 125 no seat, 126 the command cannot be run, 127 there is none, 128+n ended by signal n.
    ``say`` gets every line meant for a person; by default they go to standard error.
    """
    return asyncio.run(_Run(options, say or _to_stderr).main())


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"masche: {text}\n")
    sys.stderr.flush()


class _NoSeatError(Exception):
    """There will be no seat; the text says why and what to change."""


class _LostError(Exception):
    """The agent hung up."""


@dataclass(slots=True)
class _Run:
    """One run, from claim to exit."""

    options: RunOptions
    say: Say
    _workload: str = ""
    _command: Handle | None = None
    _writer: asyncio.StreamWriter | None = None
    _signals: "asyncio.Queue[int]" = field(default_factory=lambda: asyncio.Queue[int]())  # noqa: PLW0108 - typed
    _drained: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _is_leaving: bool = False
    _refusal: str = ""

    async def main(self) -> int:
        """Claim, run, leave."""
        for number in (*ENDING, *FORWARDED):
            asyncio.get_running_loop().add_signal_handler(number, self._signals.put_nowait, number)
        claiming = asyncio.create_task(self._first_claim())
        try:
            reader, ready = await self._unless_signalled(claiming)
        except (_NoSeatError, NoAgentError, FolderError) as error:
            self.say(str(error))
            return MESH_FAILED
        except _SignalledError as error:
            return 128 + error.number
        try:
            self._command = self._start(ready)
        except CommandError as error:
            self.say(str(error))
            self._send(Leave(is_ended=True))
            self._send(Release())
            return error.code
        return await self._live(reader, self._command)

    async def _first_claim(self) -> tuple[asyncio.StreamReader, Ready]:
        try:
            async with asyncio.timeout(self.options.start_timeout):
                return await self._claim(self._say_progress)
        except TimeoutError:
            waited = f"no seat within {self.options.start_timeout:g} s (--start-timeout)"
            raise _NoSeatError(f"{waited}; last: {self._refusal or 'no answer of the agent'}") from None
        except (_LostError, ProtocolError) as error:
            raise _NoSeatError(f"the agent hung up: {error or 'see its log'}") from error

    async def _unless_signalled(
        self, claiming: "asyncio.Task[tuple[asyncio.StreamReader, Ready]]"
    ) -> tuple[asyncio.StreamReader, Ready]:
        """Wait for the seat, but not against the user's will."""
        while True:
            signalled = asyncio.create_task(self._signals.get())
            await asyncio.wait({claiming, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if claiming.done():
                signalled.cancel()
                return claiming.result()
            if (number := signalled.result()) in ENDING:
                claiming.cancel()
                with suppress(asyncio.CancelledError):
                    await claiming
                raise _SignalledError(number)

    def _say_progress(self, text: str) -> None:
        self._refusal = text
        self.say(text)

    async def _claim(self, progress: Say) -> tuple[asyncio.StreamReader, Ready]:
        """Connect (starting the agent if need be) and wait for the seat."""
        reader, self._writer = await launch.connect(_agent_options(self.options))
        self._send(_claim_of(self.options, self._workload))
        while True:
            match await local.read_answer(reader):
                case None:
                    raise _LostError
                case Progress(text=text):
                    progress(text)
                case Ready() as ready:
                    self._workload = ready.workload
                    return reader, ready
                case Denied(why=why, fix=fix):
                    raise _NoSeatError(f"{why}\n  fix: {fix}" if fix else why)
                case _:
                    continue

    def _start(self, ready: Ready) -> Handle:
        for service in ready.created:
            self.say(f"created the Service {service}, as there was none")
        port = self.options.ports[0].port if self.options.ports else 0
        variables = environment.complete(os.environ, ready.environment, port)
        handle = command.start(self.options.command, variables, is_service=bool(self.options.ports))
        self._send(Started(pid=handle.process.pid))
        return handle

    async def _live(self, reader: asyncio.StreamReader, running: Handle) -> int:
        listening = asyncio.create_task(self._listen(reader))
        stopping = asyncio.create_task(self._obey_signals(running))
        await running.wait()
        stopping.cancel()
        self._is_leaving = True
        self._send(Leave(is_ended=True))
        self._send(Release())
        await _within(RELEASE_SECONDS, self._released)
        listening.cancel()
        await asyncio.gather(listening, stopping, return_exceptions=True)
        return MESH_FAILED if self._refusal == _STRICT else command.exit_code(running)

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
                self._drained.set()
                running.send(number)

    async def _leave(self, running: Handle, number: int) -> None:
        self._is_leaving = True
        self.say("leaving: waiting until no caller sends anything more")
        self._send(Leave())
        await _within(DRAIN_SECONDS, self._drained)
        await command.stop(running, number, self.options.grace)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Hear the agent out; when it dies, bring one back and take the seat again."""
        while True:
            try:
                await self._hear(reader)
            except (_LostError, ProtocolError):
                self._drained.set()
                if self._is_leaving:
                    self._released.set()
                    return
                reader = await self._reclaim()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while True:
            match await local.read_answer(reader):
                case None:
                    raise _LostError
                case Exposed() as exposed:
                    self._on_exposed(exposed)
                case Drained(is_confirmed=is_confirmed):
                    if not is_confirmed:
                        self.say("no word from all callers in time; stopping anyway")
                    self._drained.set()
                case Released():
                    self._released.set()
                case Phase(phase="UNHEALTHY", reason=reason):
                    self.say(f"UNHEALTHY, takes no traffic: {reason}")
                case Denied(why=why, fix=fix):
                    self.say(f"{why}\n  fix: {fix}" if fix else why)
                case Phase(phase=phase):
                    self.say(phase)
                case Progress(text=text):
                    self.say(text)
                case Ready() | AgentStatus():
                    continue
                case _ as unreachable:
                    assert_never(unreachable)

    async def _reclaim(self) -> asyncio.StreamReader:
        while True:
            await asyncio.sleep(RECLAIM_PAUSE)
            try:
                reader, _ = await self._claim(_silent)
            except (_LostError, _NoSeatError, NoAgentError, FolderError, ProtocolError, OSError):
                continue
            if self._command:
                self._send(Started(pid=self._command.process.pid))
            return reader

    def _on_exposed(self, exposed: Exposed) -> None:
        self.say(
            f"port {exposed.port} listens on {exposed.address}, so callers can go around the mesh\n"
            f"  fix: make the command listen on 127.0.0.1 only (HOST is set to it)"
        )
        if self.options.is_strict and not self._is_leaving:
            self.say("stopping it, as --strict asks")
            self._refusal = _STRICT
            self._signals.put_nowait(signal.SIGTERM)

    def _send(self, message: "local.ToAgent") -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(local.line(message))


_STRICT = "exposed under --strict"


class _SignalledError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _silent(_: str) -> None:
    """Progress of a claim made again is nobody's concern."""


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _agent_options(options: RunOptions) -> AgentOptions:
    return AgentOptions(data=options.data, envoy=options.envoy, zone=options.zone, address=options.address)


def _claim_of(options: RunOptions, workload: str) -> Claim:
    return Claim(
        service=options.service,
        namespace=options.namespace,
        service_account=options.service_account or options.service,
        labels=dict(options.labels),
        ports=tuple(ClaimPort(port=one.port, name=one.name, protocol=one.protocol) for one in options.ports),
        dependencies=options.dependencies,
        health=options.health,
        zone=options.zone,
        address=options.address,
        metrics_port=options.metrics_port,
        workload=workload,
        pid=os.getpid(),
    )
