"""What a standard defines and our types leave out: judged, and taken out of the data before its types are checked."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from masche.model.spot import Beyond, Finding, Path, Spot


def judged(data: dict[str, Any], beyond: Beyond) -> tuple[dict[str, Any], list[Finding]]:
    """Return the data without the paths of ``beyond``, and what there is to say about those that were there."""
    findings: list[Finding] = []
    for pattern, judge in beyond.items():
        found = list(_found(data, pattern, ()))
        for spot in found:
            finding = judge(spot) if spot.is_there else None
            if finding:
                findings.append(finding)
        if found:
            data = _without(data, pattern)
    return data, findings


def _found(value: Any, pattern: tuple[str, ...], path: Path) -> Iterator[Spot]:
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        for index, item in enumerate(cast("list[Any]", value) if isinstance(value, list) else []):
            yield from _found(item, rest, (*path, index))
        return
    if not isinstance(value, dict) or first not in value:
        return
    inner = cast("dict[str, Any]", value)[first]
    if rest:
        yield from _found(inner, rest, (*path, first))
    else:
        yield Spot(inner, (*path, first))


def _without(value: Any, pattern: tuple[str, ...]) -> Any:
    """A copy of what changes; what does not change is shared."""
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        return [_without(item, rest) for item in cast("list[Any]", value)] if isinstance(value, list) else value
    if not isinstance(value, Mapping) or first not in value:
        return cast("Any", value)
    fields = cast("Mapping[str, Any]", value)
    if not rest:
        return {key: item for key, item in fields.items() if key != first}
    return {**fields, first: _without(fields[first], rest)}
