"""``masche join``: spends a join string for a machine credential, whose key is made here and stays here.

The join string is read from a file or standard input, never from the command line, where every user could see it.
"""

import asyncio
import os
import sys
from pathlib import Path

from masche.agent.claimant import Say
from masche.agent.options import JoinOptions
from masche.agent.runner import to_stderr
from masche.identity.files import UnsafeFileError
from masche.identity.join import JoinError, JoinString
from masche.identity.spiffe import SpiffeError, SpiffeId
from masche.identity.trust import BundleError
from masche.link import machine
from masche.link.refusal import RefusedError

FAILED = 1
"""Exit code when this machine did not join; nothing was changed."""

MAX_CHARACTERS = 4096


def run(options: JoinOptions, *, say: Say | None = None) -> int:
    """Join and say what came of it; returns the exit code."""
    say = say or to_stderr
    try:
        credential = asyncio.run(join(options))
    except (JoinError, BundleError, RefusedError, UnsafeFileError, SpiffeError, OSError) as error:
        say(f"this machine did not join: {error}")
        if isinstance(error, RefusedError) and error.fix:
            say(f"  fix: {error.fix}")
        return FAILED
    say(f"joined {credential.trust_domain} as machine {credential.machine}; run workloads with `masche run`")
    return 0


async def join(options: JoinOptions) -> machine.Credential:
    """Spend the join string and keep what it gives.

    Raises JoinError, BundleError, RefusedError, UnsafeFileError, OSError.
    """
    name = options.machine or machine.local_id()
    try:
        SpiffeId.of_machine("any", name)
    except SpiffeError as error:
        why = f"{name!r} is no name for a machine; say --machine NAME with letters, digits, '-', '.' and '_'"
        raise JoinError(why) from error
    joining_string = JoinString.parse(await asyncio.to_thread(_read, options.token_file))
    async with machine.alone(options.data):
        credential = await _asked(joining_string, name, zone=options.zone)
        await asyncio.to_thread(machine.save, options.data, credential)
    return credential


async def _asked(joining_string: JoinString, name: str, *, zone: str) -> machine.Credential:
    try:
        return await machine.join(joining_string, name, zone=zone)
    except OSError as error:
        where = f"{joining_string.host} port {joining_string.port}"
        why = f"nobody answers at {where} ({error.strerror or error}); `masche up` must run there and be reachable"
        raise JoinError(why) from error


def _read(given: Path | None) -> str:
    named = given or (Path(found) if (found := os.environ.get("MASCHE_TOKEN_FILE")) else None)
    if named is None:
        return sys.stdin.read(MAX_CHARACTERS)
    with named.open() as file:
        return file.read(MAX_CHARACTERS)
