"""What a plain YAML scalar means under the core schema of YAML 1.2: ``no`` is text, ``010`` is ten, dates are text.

Numbers that would not survive a trip through JSON (not finite, beyond 64 bits) are refused instead of bent.
"""

import re

_MAY_RESOLVE = frozenset("-+.0123456789~nNtTfF")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")

Scalar = str | int | float | bool | None

CORE_TAGS = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:bool": bool,
    "tag:yaml.org,2002:null": type(None),
}


class ScalarError(Exception):
    """A scalar that is refused. The first argument says why, the second what to do."""

    @property
    def why(self) -> str:
        """The reason."""
        return str(self.args[0])

    @property
    def fix(self) -> str:
        """The cure."""
        return str(self.args[1])


def plain(text: str) -> Scalar:
    """Resolve a plain scalar. Raises ScalarError when it is a number that cannot be carried."""
    if text and text[0] not in _MAY_RESOLVE:
        return checked(text)
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _finite(text)
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError(f"{text} is not a finite number", "write a finite number, or quote it if it is text")
    return checked(text)


def tagged(text: str, tag: str) -> Scalar:
    """Resolve a scalar that has an explicit core tag, such as ``!!str 80``. Raises ScalarError."""
    wanted = CORE_TAGS.get(tag)
    if wanted is None:
        raise ScalarError(f"the tag {tag[:80]} is refused", "remove the tag; only plain YAML 1.2 data is read")
    if wanted is str:
        return checked(text)
    value = plain(text)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ScalarError(f"the scalar is not what its tag {tag[:80]} says", "remove the tag or correct the value")
    return value


def checked(text: str) -> str:
    """Return the text as it is. Raises ScalarError when it holds control characters."""
    if not text.isprintable() and (found := _CONTROL.search(text)):
        raise ScalarError(
            f"the control character U+{ord(found[0]):04X} is refused in text",
            "remove it; tabs and line breaks are the only control characters that may stand in text",
        )
    return text


def _integer(text: str) -> int:
    if len(text) > 24:
        raise ScalarError("the integer does not fit into 64 bits", "write a smaller number, or quote it if it is text")
    number = int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if not -(2**63) <= number < 2**63:
        raise ScalarError("the integer does not fit into 64 bits", "write a smaller number, or quote it if it is text")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ScalarError("the number is too large", "write a smaller number, or quote it if it is text")
    return number
