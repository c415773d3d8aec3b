"""How a child becomes the command of a workload: in the workload's network namespace, as the user who is to run it.

Done between fork and exec. Order: the namespaces and the domain, which need what root may; then the groups, then the
user, after which nothing of it can be undone. Invariant: the command's questions for names go where its namespace
leads, so sockets of daemons that answer names on behalf of the whole machine are out of its sight.
"""

import ctypes
import os
import pwd
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from masche.agent.capture.sockets import enter

NAME_DAEMONS = ("/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket")
"""Where libc asks for names before, or instead of, sending a question over the network."""

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000

_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_SCOPE_SIGNAL = 2
_ONLY_SCOPE = struct.pack("=QQQ", 0, 0, _SCOPE_SIGNAL)
"""``struct landlock_ruleset_attr`` that forbids no file and no port."""

_libc = ctypes.CDLL(None, use_errno=True)


class UserError(Exception):
    """There is no such user, or this process may not become another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody as whom to run a command, with all groups of theirs."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that say who one is."""
        return {"USER": self.name, "LOGNAME": self.name, "HOME": self.home}

    def become(self) -> None:
        """Be that user from now on, for good."""
        os.setgroups(self.groups)
        os.setgid(self.gid)
        os.setuid(self.uid)


def user(name: str) -> User:
    """Find a user by name or number. Raises UserError."""
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError) as error:
        raise UserError(f"there is no user {name!r} on this machine") from error
    if os.geteuid() not in {0, found.pw_uid}:
        raise UserError(f"only root may run a command as {name}")
    groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid)) if os.geteuid() == 0 else tuple(os.getgroups())
    return User(name=found.pw_name, uid=found.pw_uid, gid=found.pw_gid, groups=groups, home=found.pw_dir)


def enter_namespace(path: str) -> None:
    """Enter a network namespace, with a view of the file system in which no daemon answers names for the whole machine.

    Raises:
        OSError: there is no such namespace, or it may not be entered.
    """
    enter(path)
    hidden = [each for each in NAME_DAEMONS if os.path.exists(each)]  # noqa: PTH110 - between fork and exec, little is done
    if hidden:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _check(_libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None), "mount")
    for each in hidden:
        _check(_libc.mount(b"/dev/null", os.fsencode(each), None, _MS_BIND, None), each)


def keep_apart() -> bool:
    """Let this process and its children steer, read and signal nobody else, even of their own user; say if it worked.

    Two workloads of one user could take each other over otherwise, by ptrace(2), whatever their namespaces. It needs a
    Linux from 6.12 on with Landlock; a domain of Landlock without rules for files and ports forbids nothing else.
    """
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, _ONLY_SCOPE, len(_ONLY_SCOPE), 0)
    if ruleset < 0:
        return False
    try:
        return not _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
