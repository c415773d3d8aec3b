"""The errors of the type check, put into the words that Kubernetes uses, with a cure for each.

A field or value that is misspelt is answered with the nearest one that exists.
"""

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from enum import Enum, EnumType
from typing import Any, cast, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from masche.model.resources.core import Secret
from masche.model.resources.meta import Part
from masche.model.resources.scalars import DURATION_PATTERN, HOSTNAME_PATTERN
from masche.model.spot import Finding, Findings, Path

_TYPES = {
    "string_type": "string",
    "int_type": "integer",
    "bool_type": "boolean",
    "float_type": "number",
    "finite_number": "number",
    "tuple_type": "array",
    "dict_type": "object",
    "mapping_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
}


def explain(error: ValidationError, kind: type[Part], data: Any) -> Findings:
    """Turn each error of a type check of ``data`` as ``kind`` into a Finding."""
    for details in error.errors(include_url=False, include_context=True, include_input=False):
        if not _is_echo(details, data):
            yield _finding(details, kind, data)


def dotted(path: Path) -> str:
    """Spell a path: ``spec.rules[0].matches[1]``; keys that are not plain words stand in brackets."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif step.replace("_", "a").replace("-", "a").isalnum():
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f"[{quoted(step)}]")
    return "".join(parts)


def quoted(value: object) -> str:
    """Show a value as JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def nearest(word: str, words: Iterator[str] | list[str]) -> str:
    """The word that was probably meant, or ``""``."""
    by_lower = {known.lower(): known for known in words}
    found = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else ""


_BOUNDS = {
    "string_pattern_mismatch": ("in body should match '{pattern}'", "change it so that it matches"),
    "string_too_short": ("in body should be at least {min_length} chars long", "write a longer value"),
    "string_too_long": ("Too long: may not be more than {max_length} bytes", "shorten it"),
    "greater_than_equal": ("in body should be greater than or equal to {ge}", "write at least {ge}"),
    "less_than_equal": ("in body should be less than or equal to {le}", "write at most {le}"),
    "too_long": ("in body should have at most {max_length} items", "remove some, or split the resource"),
    "too_short": ("in body should have at least {min_length} items", "add some"),
}


_WRITTEN = {
    DURATION_PATTERN: "write 500ms, 2s or 1h30m",
    HOSTNAME_PATTERN: "write lower case letters, digits, - and dots, as in shop.example.com or *.example.com",
}
"""How what must match one of these patterns is written."""


def _finding(details: ErrorDetails, kind: type[Part], data: Any) -> Finding:
    path = tuple(step for step in details["loc"] if step != "[key]")
    value = _at(data, path)
    shown = '"..."' if issubclass(kind, Secret) else _shown(value)
    where, error = dotted(path), details["type"]
    match error:
        case "extra_forbidden":
            return _unknown(path, kind)
        case "missing":
            return _of("invalid-missing", path, f"{where}: Required value", f"add {path[-1]}")
        case "enum" | "literal_error":
            return _unsupported(path, shown, kind, value)
        case _ if error in _TYPES:
            return _wrong_type(path, _TYPES[error], value, shown, is_duration=_is_duration(kind, path))
        case _:
            rule, fix = _BOUNDS.get(error, (details["msg"].replace("{", "{{").replace("}", "}}"), "correct the value"))
            context = details.get("ctx", {})
            fix = _WRITTEN.get(context.get("pattern", ""), fix)
            why = f"Invalid value: {shown}: {where} {rule.format(**context)}"
            return _of("invalid-value", path, why, fix.format(**context))


def _is_echo(details: ErrorDetails, data: Any) -> bool:
    """A list counts as too short when its items are wrong; only those errors are worth saying."""
    value: object = _at(data, details["loc"])
    is_list = details["type"] == "too_short" and isinstance(value, list)
    return is_list and len(cast("list[Any]", value)) >= details.get("ctx", {})["min_length"]


def _shown(value: object) -> str:
    """Kubernetes shows no lists and maps."""
    match value:
        case list():
            return '"array"'
        case dict():
            return '"object"'
        case _:
            return quoted(value)


def _of(code: str, path: Path, why: str, fix: str, *, at_key: bool = False) -> Finding:
    return Finding(path=path, code=code, why=why, fix=fix, at_key=at_key)


def _wrong_type(path: Path, wanted: str, value: Any, shown: str, *, is_duration: bool) -> Finding:
    if value is None:
        why = f"Invalid value: {dotted(path)} in body must be of type {wanted}: it is empty (null)"
        return _of("invalid-type", path, why, "give it a value, or remove the field", at_key=True)
    why = f"Invalid value: {shown}: {dotted(path)} in body must be of type {wanted}: {_type_name(value)}"
    return _of("invalid-type", path, why, _WRITTEN[DURATION_PATTERN] if is_duration else _other_type(wanted, value))


_PLAIN = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}


def _other_type(wanted: str, value: Any) -> str:
    if wanted == "string" and not isinstance(value, dict | list):
        return "put the value in quotation marks"
    if wanted in _PLAIN and isinstance(value, str):
        is_quoted = re.fullmatch(r"[+-]?[0-9.]+|true|false", value) is not None
        return "leave out the quotation marks" if is_quoted else f"write {_PLAIN[wanted]}"
    return f"write {wanted}"


def _type_name(value: object) -> str:
    match value:
        case bool():
            return '"boolean"'
        case int():
            return '"integer"'
        case float():
            return '"number"'
        case str():
            return '"string"'
        case list():
            return '"array"'
        case _:
            return '"object"'


def _unsupported(path: Path, shown: str, kind: type[Part], value: Any) -> Finding:
    words = _choices(kind, path)
    supported = ", ".join(quoted(word) for word in words)
    near = nearest(value, [word for word in words if isinstance(word, str)]) if isinstance(value, str) else ""
    fix = f"did you mean {near}?" if near else "write one of them"
    why = f"Unsupported value: {shown}: supported values: {supported}"
    return _of("invalid-value", path, f"{why} ({dotted(path)})", fix)


def _unknown(path: Path, kind: type[Part]) -> Finding:
    name, parent = str(path[-1]), part_at(kind, path[:-1])
    fields = sorted(field.alias or own for own, field in parent.model_fields.items()) if parent else []
    near = nearest(name, fields)
    known = f"the fields here are {', '.join(fields)}" if fields else "remove it"
    fix = f"did you mean {near}? {known[0].upper()}{known[1:]}" if near else known
    return _of("invalid-field", path, f'unknown field "{dotted(path)}"', fix, at_key=True)


def part_at(kind: type[Part], path: Path) -> type[Part] | None:
    """The type of the Part that stands at ``path`` of a resource of this kind."""
    part: type[Part] | None = kind
    for step in path:
        if isinstance(step, int):
            continue
        part = _part_in(_annotation(part, step)) if part else None
    return part


def _annotation(part: type[Part], alias: str) -> Any:
    found = (field.annotation for own, field in part.model_fields.items() if (field.alias or own) == alias)
    return next(found, None)


def _part_in(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _part_in(argument))), None)


def _choices(kind: type[Part], path: Path) -> list[object]:
    names = [step for step in path if isinstance(step, str)]
    parent = part_at(kind, tuple(names[:-1]))
    return _members(_annotation(parent, names[-1])) if parent and names else []


def _is_duration(kind: type[Part], path: Path) -> bool:
    names = [step for step in path if isinstance(step, str)]
    parent = part_at(kind, tuple(names[:-1]))
    return parent is not None and bool(names) and _has_pattern(_annotation(parent, names[-1]), DURATION_PATTERN)


def _has_pattern(annotation: Any, pattern: str) -> bool:
    is_it = getattr(annotation, "pattern", None) == pattern
    return is_it or any(_has_pattern(each, pattern) for each in get_args(annotation))


def _members(annotation: Any) -> list[object]:
    if isinstance(annotation, EnumType):
        return [member.value for member in cast("type[Enum]", annotation)]
    found: list[object] = []
    for argument in get_args(annotation):
        found += [argument] if isinstance(argument, str | int) else _members(argument)
    return found


def _at(data: Any, path: Path) -> Any:
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data
