"""Who this process says it is and where its mesh is: from arguments, else from the environment, checked once.

The words are those of ``masche run`` and ``masche join``: what is ``--service`` there is MASCHE_SERVICE here.
Invariant: what is wrong is said before anything starts, with the place where it was written and what to write instead.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from masche.identity.places import default_data
from masche.library.core.ports import MeshError
from masche.link.address import LINK_PORT
from masche.link.workloads import LABEL, NAME, UnfitError, port_names
from masche.model.frozen import frozen
from masche.model.port import Port

T = TypeVar("T")

READY_TIMEOUT: Final = 10.0
"""Seconds that a call waits for the mesh when nothing is known yet, unless told otherwise."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class OptionsError(MeshError):
    """An option cannot be used: where it was written, why, and what to change."""


@frozen
class Options:
    """All that may be said. ``service`` and ``service_account`` stand in for each other; one of them is needed.

    ``address`` is where other machines reach this one ("": as the route to the control plane says), ``dependencies``
    what is called (None: all that may be), ``data`` the folder of this machine's state, ``token_file`` a join string
    that this process may spend when the machine has not joined, ``control_plane`` where to connect instead of where
    that says (``host:port`` or ``unix:/path``). ``ready_timeout`` in seconds. With ``keeps_last_good`` a start without
    a control plane begins with what the last one in this data folder held.
    """

    service: str = ""
    service_account: str = ""
    namespace: str = "default"
    zone: str = ""
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    dependencies: tuple[str, ...] | None = None
    data: Path = field(default_factory=default_data)
    token_file: Path | None = None
    control_plane: str = ""
    ready_timeout: float = READY_TIMEOUT
    keeps_last_good: bool = False

    @property
    def account(self) -> str:
        """As whom we call."""
        return self.service_account or self.service

    @property
    def app(self) -> str:
        """The service to which we belong."""
        return self.service or self.service_account

    @classmethod
    def read(cls, given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> "Options":
        """What is ``given`` by name, else in the environment, else by default. Raises OptionsError."""
        environ = os.environ if environ is None else environ
        written: dict[str, Any] = {}
        for name, variable, parse in _WRITTEN:
            if text := environ.get(variable, "").strip():
                written[name] = _parsed(variable, text, parse)
        chosen = dict(given or {})
        if unknown := sorted(chosen.keys() - cls.__dataclass_fields__.keys()):
            known = ", ".join(sorted(cls.__dataclass_fields__))
            raise OptionsError(f"there is no option {unknown[0]!r}: use one of {known}")
        made = replace(cls(), **{**written, **{name: _argument(name, value) for name, value in chosen.items()}})
        return replace(made, data=made.data.expanduser().absolute())._checked(chosen.keys())

    def _checked(self, chosen: Iterable[str]) -> "Options":
        def where(name: str) -> str:
            return name if name in chosen else next(v for n, v, _ in _WRITTEN if n == name)

        if not self.account:
            raise OptionsError(
                "MASCHE_SERVICE_ACCOUNT is not set, so nobody knows who this process is: set it to whom it calls as"
                " (a script or a job), or set MASCHE_SERVICE to the service that it belongs to"
            )
        for name, form in (("service", LABEL), ("namespace", LABEL), ("service_account", NAME)):
            value = getattr(self, name)
            if value and not form.fullmatch(value):
                raise OptionsError(
                    f"{where(name)}: {value!r} is no name for a {name.replace('_', ' ')}:"
                    " use lower case letters, digits and -, at most 63"
                )
        if self.address and not _is_address(self.address):
            raise OptionsError(
                f"{where('address')}: {self.address!r} is no IP address: write one at which others reach this machine"
            )
        if self.ready_timeout < 0:
            raise OptionsError(f"{where('ready_timeout')}: {self.ready_timeout:g} s is no time to wait: write 10s")
        if self.control_plane:
            return replace(self, control_plane=_target(where("control_plane"), self.control_plane))
        return self


def port(given: "int | str | Port") -> Port:
    """Read ``8443``, ``web:8443``, ``8443/grpc``. Raises OptionsError."""
    if isinstance(given, Port):
        found = given
    else:
        match = re.fullmatch(r"(?:([a-z0-9-]{1,63}):)?(\d{1,5})(?:/([a-z0-9]+))?", str(given))
        if match is None:
            raise OptionsError(f"port: {given!r} is no port: write 8443, web:8443 or 8443/grpc")
        name, number, protocol = match.groups(default="")
        found = Port(port=int(number), name=name, protocol=protocol)
    if not 0 < found.port < 65536:
        raise OptionsError(f"port: {found.port} is no port: write a number from 1 to 65535")
    try:
        port_names([found])
    except UnfitError as error:
        raise OptionsError(f"port: {error.why}: {error.fix}") from error
    return found


def _argument(name: str, value: Any) -> Any:
    """An argument may be written as the variable of that name is: a path, a list, a duration as text."""
    if not isinstance(value, str):
        return value
    return next(_parsed(name, value, parse) for each, _, parse in _WRITTEN if each == name)


def _parsed(variable: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise OptionsError(f"{variable}: {error}") from error


def _text(text: str) -> str:
    return text


def _pairs(text: str) -> dict[str, str]:
    """``key=value,key=value``."""
    found: dict[str, str] = {}
    for one in _listed(text):
        key, equals, value = one.partition("=")
        if not (key and equals):
            raise ValueError(f"{one!r} is not KEY=VALUE: write tier=gold,team=web")
        found[key] = value
    return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (one.strip() for one in text.split(","))))


def _seconds(text: str) -> float:
    number = text.rstrip("smh")
    try:
        return float(number) * _UNITS[text[len(number) :] or "s"]
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is no duration: write 500ms, 10s or 1m") from None


def _switch(text: str) -> bool:
    found = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.lower())
    if found is None:
        raise ValueError(f"{text!r} is neither yes nor no: write 1 or 0")
    return found


def _target(where: str, text: str) -> str:
    """``host``, ``host:port``, ``[::1]:port`` or ``unix:/path``; without a port the one of every control plane."""
    if text.startswith("unix:/"):
        return text
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?", text)
    if match is None or (match[2] and not 0 < int(match[2]) < 65536):
        raise OptionsError(f"{where}: {text!r} is no control plane: write host:{LINK_PORT} or unix:/path/control.sock")
    return f"{match[1]}:{match[2] or LINK_PORT}"


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


_WRITTEN: Final[tuple[tuple[str, str, Callable[[str], Any]], ...]] = (
    ("service", "MASCHE_SERVICE", _text),
    ("service_account", "MASCHE_SERVICE_ACCOUNT", _text),
    ("namespace", "MASCHE_NAMESPACE", _text),
    ("zone", "MASCHE_ZONE", _text),
    ("address", "MASCHE_ADDRESS", _text),
    ("labels", "MASCHE_LABELS", _pairs),
    ("dependencies", "MASCHE_DEPENDS_ON", _listed),
    ("data", "MASCHE_DATA", Path),
    ("token_file", "MASCHE_TOKEN_FILE", Path),
    ("control_plane", "MASCHE_CONTROL_PLANE", _text),
    ("ready_timeout", "MASCHE_READY_TIMEOUT", _seconds),
    ("keeps_last_good", "MASCHE_LAST_GOOD", _switch),
)
"""Each option with the variable in which it is written, and how that is read."""
