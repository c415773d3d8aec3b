"""The words and numbers that fields are made of, with the patterns and bounds that the standards give them.

Patterns are those of the Kubernetes and Gateway API schemas; they are linear-time regular expressions (RE2 syntax).
"""

import re
from typing import Annotated

from pydantic import Field, Strict, StringConstraints

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_NAME = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"
_HEADER = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"

DURATION_PATTERN = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"

Int = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Port = Annotated[int, Strict(), Field(ge=1, le=65535)]
Percent = Annotated[int, Strict(), Field(ge=0, le=100)]
Share = Annotated[float, Strict(), Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=0, le=4294967295)]
Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN)]

LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=rf"^({_DNS_NAME}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$", min_length=1, max_length=317
    ),
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
AnnotationKey = LabelKey

DnsLabel = Annotated[str, StringConstraints(pattern=f"^{_DNS_LABEL}$", min_length=1, max_length=63)]
DnsName = Annotated[str, StringConstraints(pattern=f"^{_DNS_NAME}$", min_length=1, max_length=253)]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253)]
NamespaceName = DnsLabel
AnyNamespace = Annotated[str, StringConstraints(pattern=f"^$|^{_DNS_LABEL}$", max_length=63)]
SectionName = DnsName
Group = Annotated[str, StringConstraints(pattern=f"^$|^{_DNS_NAME}$", max_length=253)]
KindName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$", min_length=1, max_length=63)
]
HOSTNAME_PATTERN = rf"^(\*\.)?{_DNS_NAME}$"
Hostname = Annotated[str, StringConstraints(pattern=HOSTNAME_PATTERN, min_length=1, max_length=253)]
PreciseHostname = Annotated[str, StringConstraints(pattern=f"^{_DNS_NAME}$", min_length=1, max_length=253)]
HeaderName = Annotated[str, StringConstraints(pattern=_HEADER, min_length=1, max_length=256)]
PortName = Annotated[str, StringConstraints(pattern=f"^{_DNS_LABEL}$", max_length=63)]

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SPANS = re.compile("([0-9]{1,5})(h|ms|m|s)")


def seconds(duration: str) -> float:
    """Read a Gateway API duration (GEP-2257): ``500ms`` is 0.5, ``1h30m`` is 5400.

    Raises ValueError when it is none.
    """
    if not re.fullmatch(DURATION_PATTERN[1:-1], duration, re.ASCII):
        raise ValueError(f"{duration!r} is no duration; it must match {DURATION_PATTERN}")
    return sum(int(number) * _UNITS[unit] for number, unit in _SPANS.findall(duration))
