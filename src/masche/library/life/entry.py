"""By what this process may speak to a control plane, in the order in which that is looked for.

The machine's own credential; else a join string that this process may spend, which then is the machine's credential;
else the Unix socket of a control plane on this very machine. Invariant: a join string is spent once, whoever of several
processes comes first, and what was got for it is kept 0600 or in memory, never anywhere else.
"""

import asyncio
import os
import stat
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import Final

from masche.identity import places
from masche.identity.files import UnsafeFileError
from masche.identity.join import JoinError, JoinString
from masche.identity.spiffe import SpiffeError
from masche.identity.trust import BundleError
from masche.library.life.options import Options
from masche.link import machine
from masche.link.machine import Credential, Machine, MachineError
from masche.link.refusal import RefusedError

LOCAL: Final = "unix:"
MAX_CHARACTERS: Final = 4096


class NoEntryError(Exception):
    """There is no way to a control plane yet; the message says what would be one. It is looked for again."""


class Entry:
    """Looks for a way in, as often as asked. A join string that was refused is not shown again."""

    def __init__(self, options: Options, *, rng: Random) -> None:
        self._options = options
        self._rng = rng
        self._refused: tuple[str, NoEntryError] | None = None

    def __repr__(self) -> str:
        return f"<Entry by {self._options.data}>"

    def guess(self) -> str:
        """Where the control plane is, as far as can be said without one."""
        options = self._options
        with suppress(NoEntryError):
            found = _load(options.data)
            if found is not None and found.addresses:
                return options.control_plane or found.addresses[0]
        return options.control_plane or f"{LOCAL}{places.control_socket(options.data)}"

    async def find(self) -> Machine:
        """Who this machine is. Raises NoEntryError."""
        options = self._options
        if options.control_plane.startswith(LOCAL):
            return self._machine(None)
        if (found := _load(options.data)) is not None:
            return self._machine(found)
        if options.token_file is not None:
            return await self._joined(options.token_file)
        if options.control_plane:
            raise NoEntryError(
                f"this machine has no credential for {options.control_plane}:"
                " run `masche join`, or set MASCHE_TOKEN_FILE"
            )
        _check_socket(places.control_socket(options.data))
        return self._machine(None)

    def _machine(self, credential: Credential | None, *, is_kept: bool = True) -> Machine:
        options = self._options
        return Machine(options.data, credential, rng=self._rng, control_plane=options.control_plane, is_kept=is_kept)

    async def _joined(self, token_file: Path) -> Machine:
        """Spend the join string, unless another process of this machine has done so since."""
        data = self._options.data
        async with AsyncExitStack() as stack:
            is_kept = True
            try:
                await stack.enter_async_context(machine.alone(data))
            except (UnsafeFileError, OSError):  # the folder is not to be had: the credential is of this process alone
                is_kept = False
            if is_kept and (found := _load(data)) is not None:
                return self._machine(found)
            credential = await self._spent(token_file)
            return self._machine(credential, is_kept=is_kept and _is_saved(data, credential))

    async def _spent(self, token_file: Path) -> Credential:
        text = ""
        try:
            text = await asyncio.to_thread(_read, token_file)
            if self._refused and self._refused[0] == text:
                raise self._refused[1]
            return await machine.join(JoinString.parse(text), machine.local_id(), zone=self._options.zone)
        except (JoinError, BundleError, RefusedError, SpiffeError, OSError) as error:
            fix = f": {error.fix}" if isinstance(error, RefusedError) and error.fix else ""
            what = f"the join string in {token_file} (MASCHE_TOKEN_FILE) gave no entry: {error}{fix}"
            found = NoEntryError(what)
            if not isinstance(error, OSError):
                self._refused = (text, found)
            raise found from error


def _load(data: Path) -> Credential | None:
    try:
        return machine.load(data)
    except MachineError as error:
        raise NoEntryError(str(error)) from error


def _is_saved(data: Path, credential: Credential) -> bool:
    try:
        machine.save(data, credential)
    except (UnsafeFileError, OSError):
        return False
    return True


def _check_socket(path: Path) -> None:
    """The socket must be ours or root's: whoever made it is believed in everything."""
    try:
        found = path.stat()
    except OSError as error:
        raise NoEntryError(
            f"no control plane runs on {path.parent}: start it with `masche up`, `masche join` this machine,"
            " or set MASCHE_DATA to the folder of one"
        ) from error
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in {0, os.geteuid()}:
        raise NoEntryError(f"{path} is not a socket of this user: set MASCHE_DATA to a folder of your own")


def _read(path: Path) -> str:
    with path.open() as file:
        return file.read(MAX_CHARACTERS)
