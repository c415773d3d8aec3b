"""Makes text from outside harmless and numbers readable before they are printed.

Invariant: nothing that came over the network or out of a file reaches a terminal as a control sequence.
"""

import unicodedata

from masche.model.diagnostic import Diagnostic

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def literal(text: str) -> str:
    r"""Show control characters instead of obeying them: ESC becomes ``\x1b``, a new line ``\n``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in _BIDI


def finding(diagnostic: Diagnostic) -> str:
    """A Diagnostic in two lines, whatever its parts hold."""
    place = f"{literal(str(diagnostic.place))}: " if diagnostic.place else ""
    said = f"{diagnostic.severity}: {literal(diagnostic.where)}: {literal(diagnostic.why)} [{literal(diagnostic.code)}]"
    return f"{place}{said}\n  fix: {literal(diagnostic.fix)}"


def span(seconds: float) -> str:
    """A duration in its two largest units: ``23h59m``, ``4d0h``, ``0.3s``."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small}{smaller}"
    return f"{whole}s"


def until(instant: float, *, now: float) -> str:
    """How long until an instant (Unix seconds): ``23h59m``, ``expired 5m0s ago``, ``-`` for none."""
    if instant == 0.0:
        return "-"
    return span(instant - now) if instant > now else f"expired {span(now - instant)} ago"


def share(part: float) -> str:
    """A share as a percentage that never rounds up to perfect: 0.9999 is ``99.99%``, 1.0 is ``100%``."""
    if part >= 1.0:
        return "100%"
    return f"{int(part * 10000) / 100:.2f}%"
