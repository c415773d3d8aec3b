"""Whether a regular expression can be given to the proxy: RE2 syntax (linear time), at most 1024 characters.

The check compiles it with a linear-time engine whose syntax is RE2's but for a few constructs, told apart here.
"""

import re

from pydantic_core import SchemaError, SchemaValidator, core_schema

MAX_LENGTH = 1024

_NOT_RE2 = (
    (re.compile(r"\(\?(=|!|<=|<!)"), "lookaround is not RE2 syntax"),
    (re.compile(r"\\[1-9]|\(\?P=|\\k<"), "backreferences are not RE2 syntax"),
    (re.compile(r"\(\?>|[*+?}]\+"), "possessive and atomic groups are not RE2 syntax"),
    (re.compile(r"\(\?[imsU-]*[xuR]"), "of inline flags RE2 knows only i, m, s and U"),
    (re.compile(r"\\[uU<>]|\\b\{"), "this escape is not RE2 syntax"),
)
_MAX_REPEAT = 1000
_STEP = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]])*\]|\{([0-9]{1,9})(?:(,)([0-9]{0,9}))?\}|.", re.DOTALL)
_SETS = {"[": "\\[", "&&": "\\&\\&", "--": "\\-\\-", "~~": "\\~\\~"}


def problem(pattern: str) -> str:
    """Say why the proxy would refuse the pattern, or ``""`` when it would not."""
    if len(pattern) > MAX_LENGTH:
        return f"the regular expression is longer than {MAX_LENGTH} characters"
    bare = re.sub(r"\\\\", "", pattern)
    for construct, why in _NOT_RE2:
        if construct.search(bare):
            return why
    if _deepest_repeat(pattern) > _MAX_REPEAT:
        return f"RE2 repeats at most {_MAX_REPEAT} times, nested repeats multiplied"
    try:
        SchemaValidator(core_schema.str_schema(pattern=_without_set_operations(pattern), regex_engine="rust-regex"))
    except SchemaError as error:
        return f"the regular expression does not compile: {_last_line(str(error))}"
    return ""


def _without_set_operations(pattern: str) -> str:
    """RE2 has no operations on sets: inside brackets ``[``, ``&&``, ``--`` and ``~~`` are plain characters."""
    out: list[str] = []
    position, inside = 0, False
    while position < len(pattern):
        step = pattern[position : position + 2]
        if step.startswith("\\") or (inside and step == "[:"):
            out.append(step)
        elif inside and (found := next((sign for sign in _SETS if step.startswith(sign)), "")):
            step = found
            out.append(_SETS[found])
        else:
            step = step[:1]
            is_first = not inside and step == "["
            inside = is_first or (inside and step != "]")
            if is_first:
                step = _opening(pattern, position)
            out.append(step)
        position += len(step)
    return "".join(out)


def _deepest_repeat(pattern: str) -> int:
    """The largest product of counted repeats that stand inside each other: 20 for ``(a{4}b){5}``."""
    groups, atom = [1], 1
    for step in _STEP.finditer(pattern):
        if step[0] == "(":
            groups.append(1)
        elif step[0] == ")" and len(groups) > 1:
            atom = groups.pop()
        elif step[1]:
            atom *= max(int(step[1]), int(step[3] or 0), 1)
        else:
            atom = 1
        groups[-1] = max(groups[-1], atom)
    return max(groups)


def _opening(pattern: str, position: int) -> str:
    """The beginning of a set with what may stand first in it: ``[``, ``[^``, ``[]``, ``[^]``."""
    end = position + 1
    end += pattern.startswith("^", end)
    end += pattern.startswith("]", end)
    return pattern[position:end]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "")
    return found.removeprefix("error:").strip()[:200]
