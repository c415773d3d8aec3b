"""Holds a claim on a seat against everything: brings up an agent, claims, listens, and claims again when an agent dies.

Invariant: after the first Ready the seat is asked for by its own name, so that it is the same seat whoever gives it.
"""

import asyncio
from collections.abc import Callable

import msgspec

from masche.agent import launch, local
from masche.agent.folders import FolderError, Folders
from masche.agent.keeping import Keeper
from masche.agent.launch import NoAgentError
from masche.agent.local import Claim, Denied, Progress, ProtocolError, Ready, Release
from masche.agent.options import AgentOptions

RECLAIM_PAUSE = 0.2
"""Seconds between attempts to bring a dead agent back."""

SILENCE = 5.0
"""Seconds without a word of the agent after which whoever waits is told what to look at."""

Say = Callable[[str], None]


class NoSeatError(Exception):
    """There will be no seat; the text says why and what to change."""


class _LostError(Exception):
    """The agent hung up."""


class Claimant:
    """One claim. ``on_message`` hears everything after Ready, ``on_loss`` that the agent is gone (True: claim again).

    ``greeting`` is what a new agent must be told after a claim made again.
    """

    def __init__(
        self,
        options: AgentOptions,
        claim: Claim,
        *,
        on_message: Callable[["local.FromAgent"], None],
        on_loss: Callable[[], bool],
        greeting: Callable[[], "local.ToAgent | None"] = lambda: None,
    ) -> None:
        self._options = options
        self._claim = claim
        self._on_message = on_message
        self._on_loss = on_loss
        self._greeting = greeting
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper = Keeper(Folders(options.data).names_socket)

    def __repr__(self) -> str:
        return f"<Claimant of {self._claim.workload or self._claim.service}>"

    def send(self, message: "local.ToAgent") -> None:
        """Tell the agent something, if there is one."""
        if self._writer and not self._writer.is_closing():
            self._writer.write(local.line(message))

    def release(self) -> None:
        """Give the seat back: the command has ended."""
        self._keeper.close()
        self.send(Release())

    async def take(self, within: float, say: Say) -> Ready:
        """Get the seat in at most so many seconds. Raises NoSeatError, saying the last progress when time ran out."""
        last = "no answer of the agent"

        def progress(text: str) -> None:
            nonlocal last
            last = text
            silence.cancel()
            say(text)

        log = Folders(self._options.data).agent_log
        silent = f"the agent of this machine does not answer; see {log}. One that is stopped goes on with SIGCONT"
        silence = asyncio.get_running_loop().call_later(SILENCE, say, silent)
        try:
            async with asyncio.timeout(within):
                return await self._ask_until_heard(progress)
        except TimeoutError:
            raise NoSeatError(f"no seat within {within:g} s (--start-timeout); last: {last}") from None
        except (ProtocolError, NoAgentError, FolderError) as error:
            raise NoSeatError(str(error)) from error
        finally:
            silence.cancel()

    async def listen(self) -> None:
        """Hear the agent; when it dies, bring one back and take the seat again, for as long as ``on_loss`` says so."""
        while True:
            try:
                await self._hear()
            except (_LostError, ProtocolError):
                if not self._on_loss():
                    return
                await self._take_again()

    async def _ask_until_heard(self, progress: Say) -> Ready:
        """Ask again when an agent ends before it answered: it may have been killed, or have joined another mesh."""
        while True:
            try:
                return await self._ask(progress)
            except _LostError:
                progress("the agent ended; asking again")
                await asyncio.sleep(RECLAIM_PAUSE)

    async def _ask(self, progress: Say) -> Ready:
        self._reader, self._writer = await launch.connect(self._options)
        await self._keeper.bring(self._claim.workload)
        self.send(self._claim)
        while True:
            match await local.read_answer(self._reader):
                case None:
                    raise _LostError
                case Progress(text=text):
                    progress(text)
                case Ready() as ready:
                    self._claim = msgspec.structs.replace(self._claim, workload=ready.workload)
                    await self._keeper.fetch(ready.workload)
                    return ready
                case Denied(why=why, fix=fix):
                    raise NoSeatError(f"{why}\n  fix: {fix}" if fix else why)
                case _:
                    continue

    async def _hear(self) -> None:
        while self._reader and (message := await local.read_answer(self._reader)) is not None:
            self._on_message(message)
        raise _LostError

    async def _take_again(self) -> None:
        while True:
            await asyncio.sleep(RECLAIM_PAUSE)
            try:
                await self._ask(_silent)
            except NoSeatError:
                self._keeper.close()  # perhaps it was for their sake
                continue
            except (_LostError, NoAgentError, FolderError, ProtocolError, OSError):
                continue
            if greeting := self._greeting():
                self.send(greeting)
            return


def _silent(_: str) -> None:
    """Progress of a claim made again is nobody's concern."""
