"""SPIFFE IDs: strict reading and writing, and the three forms that this mesh issues.

Decides from a string alone whether it is a SPIFFE ID, by the SPIFFE-ID specification; what is not exactly valid is
refused, never repaired, so that two spellings can not mean one identity.
"""

import string
from dataclasses import dataclass
from typing import Final

from masche.model.frozen import frozen

MAX_LENGTH: Final = 2048
"""Bytes. "SPIFFE implementations MUST support SPIFFE URIs up to 2048 bytes in length and MUST NOT generate longer." """

MAX_TRUST_DOMAIN: Final = 255
"""Bytes of a trust domain's name."""

MAX_SEGMENT: Final = 253
"""Characters of a namespace, service account or machine id in an ID that we issue."""

_SCHEME: Final = "spiffe://"
_TRUST_DOMAIN: Final = frozenset(string.ascii_lowercase + string.digits + ".-_")
_SEGMENT: Final = frozenset(string.ascii_letters + string.digits + ".-_")


class SpiffeError(ValueError):
    """The string is not a valid SPIFFE ID, or the parts do not make one; the text says why."""


@frozen(kw_only=False)
class WorkloadIdentity:
    """``/ns/<namespace>/sa/<service account>``: every instance that runs as that service account."""

    namespace: str
    service_account: str


@frozen(kw_only=False)
class Machine:
    """``/machine/<id>``: one agent, by its machine credential."""

    id: str


@frozen(kw_only=False)
class ControlPlane:
    """``/control-plane``: any control plane of the trust domain."""


Role = WorkloadIdentity | Machine | ControlPlane


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A valid SPIFFE ID; making one from invalid parts raises SpiffeError. ``path`` is "" or starts with a slash."""

    trust_domain: str
    path: str = ""

    def __post_init__(self) -> None:
        _check_trust_domain(self.trust_domain)
        _check_path(self.path)
        if len(str(self)) > MAX_LENGTH:
            raise SpiffeError(f"a SPIFFE ID of {len(str(self))} bytes; at most {MAX_LENGTH} are allowed")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """Read a SPIFFE ID strictly. Raises SpiffeError."""
        if len(text) > MAX_LENGTH:
            raise SpiffeError(f"a SPIFFE ID of {len(text)} characters; at most {MAX_LENGTH} are allowed")
        if not text.startswith(_SCHEME):
            raise SpiffeError(f"{text[:80]!r} does not start with {_SCHEME}")
        trust_domain, slash, path = text.removeprefix(_SCHEME).partition("/")
        return cls(trust_domain, slash + path)

    @classmethod
    def of_workload(cls, trust_domain: str, namespace: str, service_account: str) -> "SpiffeId":
        """The identity of a service account. Raises SpiffeError."""
        return cls(trust_domain, f"/ns/{_own(namespace)}/sa/{_own(service_account)}")

    @classmethod
    def of_machine(cls, trust_domain: str, machine: str) -> "SpiffeId":
        """The identity of a machine. Raises SpiffeError."""
        return cls(trust_domain, f"/machine/{_own(machine)}")

    @classmethod
    def of_control_plane(cls, trust_domain: str) -> "SpiffeId":
        """The identity of every control plane of a trust domain. Raises SpiffeError."""
        return cls(trust_domain, "/control-plane")

    @property
    def role(self) -> Role | None:
        """Which of the three forms this is; None for any other path."""
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", service_account]:
                return WorkloadIdentity(namespace, service_account)
            case ["", "machine", machine]:
                return Machine(machine)
            case ["", "control-plane"]:
                return ControlPlane()
            case _:
                return None


def _check_trust_domain(name: str) -> None:
    """ "The trust domain name MUST NOT be empty ... lowercase letters, numbers, dots, dashes and underscores." """
    if not name:
        raise SpiffeError("the trust domain is empty")
    if len(name) > MAX_TRUST_DOMAIN:
        raise SpiffeError(f"a trust domain of {len(name)} characters; at most {MAX_TRUST_DOMAIN} are allowed")
    if strange := sorted(set(name) - _TRUST_DOMAIN):
        raise SpiffeError(f"the trust domain {name!r} has {strange[0]!r}: only a-z, 0-9, '.', '-' and '_' are allowed")


def _check_path(path: str) -> None:
    """Percent-encoding, queries and fragments fall to the character set; "." and ".." segments are named apart."""
    if not path:
        return
    root, *segments = path.split("/")
    if root:
        raise SpiffeError(f"the path {path[:80]!r} does not start with a slash")
    for segment in segments:
        if not segment:
            raise SpiffeError("the path has an empty segment or ends with a slash")
        if segment in {".", ".."}:
            raise SpiffeError("the path has a relative segment")
        if strange := sorted(set(segment) - _SEGMENT):
            raise SpiffeError(f"the path has {strange[0]!r}: only letters, digits, '.', '-' and '_' are allowed")


def _own(segment: str) -> str:
    """One segment of an ID that we issue: a slash in a name must not open another segment."""
    if not segment or len(segment) > MAX_SEGMENT or "/" in segment:
        raise SpiffeError(f"{segment[:80]!r} is not one path segment of 1 to {MAX_SEGMENT} characters")
    return segment
