r"""Regular expressions as xDS means them: RE2's syntax, the whole text or every match of it, over Python's own engine.

What the two spell differently is translated (``\z``, ``[[:alpha:]]``, ``\Q...\E``, flags in the middle), and what only
Python has (lookaround, backreferences) is refused, as Envoy refuses it. Invariant: an expression that cannot be carried
out exactly is not carried out at all: it is reported where it is decoded, and matches nothing here.
"""

import re
from functools import lru_cache

from masche.model.automaton import Automaton, TooLargeError, automaton

MAX_LENGTH = 4096
"""How long an expression may be, in characters."""

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


def _others(members: str) -> str:
    """Return what may stand in a set for every character that is not among these."""
    inside = re.compile(f"[{members}]")
    lone = [code for code in range(128) if not inside.match(chr(code))]
    return "".join(re.escape(chr(code)) for code in lone) + r"\x80-\U0010ffff"


_CLASSES = {**_POSIX, **{f"^{name}": _others(members) for name, members in _POSIX.items()}}
_SPACE = r"\t\n\f\r "
_COUNT = re.compile(r"\{([0-9]{1,4})(,([0-9]{0,4}))?\}")
_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_FLAGS = re.compile(r"\(\?([ims]*(?:-[ims]+)?)([:)])")
_OPENING = re.compile(r"\((?:\?:|\?P?<([A-Za-z_][A-Za-z0-9_]*)>)?")
_REFUSED_ESCAPES = frozenset("123456789pPCZugGkKRXEN")
_IN_A_SET = frozenset("[&~|#")


class ExpressionError(ValueError):
    """An expression that RE2 does not know, or that we cannot carry out as it would."""


def full_match(pattern: str, text: str) -> bool:
    """Say whether the whole text matches; an expression that cannot be carried out matches nothing.

    In time that grows with the text alone, unless the expression asks for the edges of words or lines.
    """
    found = _lenient_automaton(pattern)
    if found is not None:
        return found.fits(text)
    compiled = _lenient(pattern)
    return compiled is not None and compiled.fullmatch(text) is not None


def replace_all(pattern: str, text: str, substitution: str) -> str:
    r"""Return the text with each match replaced; ``\1`` is what the first group matched, ``\\`` a backslash.

    RE2's GlobalReplace: an empty match right after another match is none. An expression that cannot be carried out
    replaces nothing.
    """
    compiled = _lenient(pattern)
    if compiled is None:
        return text
    out: list[str] = []
    copied = at = 0
    last_end = -1
    while at <= len(text) and (found := compiled.search(text, at)) is not None:
        if found.end() == found.start() == last_end:
            at = found.end() + 1
            continue
        out += (text[copied : found.start()], _filled(substitution, found))
        copied = last_end = found.end()
        at = found.end() if found.end() > found.start() else found.end() + 1
    return "".join(out) + text[copied:]


def _filled(substitution: str, found: re.Match[str]) -> str:
    def one(escape: re.Match[str]) -> str:
        return "\\" if escape[1] == "\\" else found[int(escape[1])] or ""

    return re.sub(r"\\([0-9\\])", one, substitution)


def check(pattern: str, substitution: str = "") -> None:
    """Raise an ExpressionError that says why an expression, or what replaces its matches, cannot be carried out."""
    groups = compiled(pattern).groups
    for escape in re.finditer(r"\\(.?)", substitution, re.DOTALL):
        if escape[1] != "\\" and not (escape[1].isdecimal() and int(escape[1]) <= groups):
            raise ExpressionError(f"the substitution {substitution!r} refers to what {pattern!r} does not have")


@lru_cache(maxsize=4096)
def _lenient(pattern: str) -> re.Pattern[str] | None:
    try:
        return compiled(pattern)
    except ExpressionError:
        return None


@lru_cache(maxsize=1024)
def _lenient_automaton(pattern: str) -> Automaton | None:
    try:
        return automaton(compiled(pattern).pattern)
    except (ExpressionError, TooLargeError):
        return None


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return the expression in Python's engine; raises ExpressionError."""
    if len(pattern) > MAX_LENGTH:
        raise ExpressionError(f"an expression may have {MAX_LENGTH} characters, not {len(pattern)}")
    try:
        found = re.compile(_Translation(pattern).text(), re.ASCII)
        automaton(found.pattern)
    except (re.error, OverflowError, RecursionError, TooLargeError) as error:
        raise ExpressionError(f"the expression {pattern!r} does not compile: {error}") from error
    return found


class _Translation:
    """One walk over an expression, from RE2's spelling to Python's."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0
        self._out: list[str] = []
        self._flags: list[list[str]] = [[]]
        """For each group that is open, the groups ``(?i:`` that flags in its middle opened."""

    def text(self) -> str:
        """Return the translation."""
        while self._at < len(self._pattern):
            self._step()
        if len(self._flags) > 1:
            raise self._wrong("a group that is not closed")
        return "".join(self._out) + ")" * len(self._flags[0])

    def _wrong(self, what: str) -> ExpressionError:
        return ExpressionError(f"the expression {self._pattern!r} has {what}, which is not carried out")

    def _emit(self, text: str, taken: int) -> None:
        self._out.append(text)
        self._at += taken

    def _step(self) -> None:
        sign = self._pattern[self._at]
        match sign:
            case "\\":
                self._escape()
            case "[":
                self._set()
            case "(":
                self._open()
            case ")":
                self._close()
            case "|":
                opened = self._flags[-1]
                self._emit(")" * len(opened) + "|" + "".join(opened), 1)
            case "$":
                self._emit(r"\Z", 1)
            case "{":
                self._count()
            case "*" | "+" | "?":
                self._repeat(sign)
            case _:
                self._emit(sign, 1)

    def _repeat(self, sign: str) -> None:
        """A ``+`` after a repeat would be possessive, and a third sign is wrong in both."""
        rest = self._pattern[self._at + len(sign) :]
        if rest[:1] in {"+", "*"} or (rest[:1] == "?" and rest[1:2] in {"+", "*", "?"}):
            raise self._wrong("a repeat of a repeat")
        lazy = "?" if rest[:1] == "?" else ""
        self._emit(sign + lazy, len(sign) + len(lazy))

    def _count(self) -> None:
        """What is no count is text in RE2, ``{,3}`` too."""
        found = _COUNT.match(self._pattern, self._at)
        if found is None:
            self._emit(r"\{", 1)
        elif max(int(found[1]), int(found[3] or 0)) > 1000:
            raise self._wrong("a count above 1000")
        else:
            self._repeat(found[0])

    def _escape(self) -> None:
        sign = self._pattern[self._at + 1 : self._at + 2]
        if sign == "Q":
            quoted, end, _ = self._pattern[self._at + 2 :].partition("\\E")
            self._emit(re.escape(quoted), 2 + len(quoted) + len(end))
        elif sign in {"s", "S"}:
            self._emit(f"[{'^' if sign == 'S' else ''}{_SPACE}]", 2)
        elif sign == "z":
            self._emit(r"\Z", 2)
        else:
            self._emit(*self._plain_escape(sign))

    def _plain_escape(self, sign: str) -> tuple[str, int]:
        """What means the same in a set and outside."""
        if not sign or sign in _REFUSED_ESCAPES:
            raise self._wrong(f"the escape \\{sign}")
        if found := _HEX.match(self._pattern, self._at):
            return re.escape(chr(min(int(found[1], 16), 0x10FFFF))), len(found[0])
        return f"\\{sign}", 2

    def _open(self) -> None:
        flags = _FLAGS.match(self._pattern, self._at)
        if flags is not None and flags[1]:
            opening = f"(?{flags[1]}:"
            if flags[2] == ":":
                self._flags.append([])
            else:
                self._flags[-1].append(opening)
            self._emit(opening, len(flags[0]))
            return
        found = _OPENING.match(self._pattern, self._at)
        assert found is not None, "it stands at a parenthesis"
        if self._pattern[found.end() : found.end() + 1] == "?":
            raise self._wrong("a group of a kind unknown to RE2")
        self._flags.append([])
        self._emit(f"(?P<{found[1]}>" if found[1] else found[0], len(found[0]))

    def _close(self) -> None:
        if len(self._flags) == 1:
            raise self._wrong("a parenthesis too many")
        self._emit(")" * (len(self._flags.pop()) + 1), 1)

    def _set(self) -> None:
        """A set: its first bracket is text, POSIX's classes are spelled out, and it knows no operations."""
        start = "[^" if self._pattern.startswith("[^", self._at) else "["
        self._emit(start, len(start))
        is_first = True
        while is_first or not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise self._wrong("a set that is not closed")
            self._member()
            is_first = False
        self._emit("]", 1)

    def _member(self) -> None:
        rest = self._pattern[self._at :]
        if rest.startswith("[:") and (end := rest.find(":]")) > 0:
            if (name := rest[2:end]) not in _CLASSES:
                raise self._wrong(f"the class {name!r}")
            self._emit(_CLASSES[name], end + 2)
        elif rest[0] == "\\":
            if rest[1:2] in {"b", "B", "A", "z", "Q"}:
                raise self._wrong(f"the escape {rest[:2]} in a set")
            self._emit(*((_SPACE, 2) if rest[1:2] == "s" else self._plain_escape(rest[1:2])))
        elif rest[0] in _IN_A_SET or rest[0] == "]" or rest.startswith("--"):
            self._emit(f"\\{rest[0]}", 1)
        else:
            self._emit(rest[0], 1)
