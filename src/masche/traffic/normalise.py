"""Bring a request's path into the one form in which it is matched, judged and sent on, or refuse it with 400.

The steps, their order and their corners are those of Envoy's HTTP connection manager with ``normalize_path``,
``merge_slashes`` and ``path_with_escaped_slashes_action: REJECT_REQUEST`` (observed on 1.40), so that a decision made
here is the one a proxy makes. Invariant: normalising twice changes nothing, but for the slashes of ``//``.
"""

import re

from masche.traffic.verdict import Verdict

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_ESCAPED_SLASH = re.compile(r"%(?:2[Ff]|5[Cc])")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NEW_ESCAPE = re.compile(r"\0(?=[0-9A-Fa-f]{2})")
_UNSAFE = re.compile(r'["<>^`{|}]')
_INVALID = re.compile(r"[^\x21-\x7e]")
_DOT_WITH_PARAMETERS = re.compile(r"(?<=/)(\.\.?);[^/]*")


def normalise(target: str) -> str | Verdict:
    """Return the normal form of a path with query, or the Verdict that refuses it. The query is never touched."""
    path, mark, query = target.partition("?")
    why = _fault(target, path)
    if why:
        return Verdict.refuse("", f"the request was refused before any rule was asked: {why}", status=400)
    return _merge_slashes(_without_dots(_canonical(path))) + mark + query


def _fault(target: str, path: str) -> str:
    """Name what no proxy may guess about; empty when there is nothing."""
    if not path.startswith("/"):
        return "its path does not start with a slash"
    if _INVALID.search(target):
        return "its path holds a control character, a space or a byte outside ASCII"
    if "#" in target:
        return "its path holds a fragment"
    if _ESCAPED_SLASH.search(path):
        return "its path holds an escaped slash (%2F or %5C), which servers read differently"
    if "%00" in path:
        return "its path holds an escaped NUL"
    return ""


def _canonical(path: str) -> str:
    """Cut parameters off dot segments (``/..;x`` is ``/..``), read backslashes as slashes, decode what needs no escape.

    A lone percent sign stays as it is, unless decoding made an escape of it: ``%%41b`` is ``%25Ab``, never ``%Ab``.
    NUL stands for it meanwhile; none comes this far.
    """
    plain = _DOT_WITH_PARAMETERS.sub(r"\1", path).replace("\\", "/")
    encoded = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", plain)
    decoded = _ESCAPED.sub(_decode_unreserved, _LONE_PERCENT.sub("\0", encoded))
    return _NEW_ESCAPE.sub("%25", decoded).replace("\0", "%")


def _decode_unreserved(found: re.Match[str]) -> str:
    """RFC 3986, 6.2.2.2: "percent-encoded octets in the ranges of unreserved characters should be decoded"."""
    octet = int(found[1], 16)
    return chr(octet) if octet in _UNRESERVED else found[0]


def _without_dots(path: str) -> str:
    """Remove dot segments (RFC 3986, 5.2.4); an empty segment counts as one, so ``/a//../b`` is ``/a/b``."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _merge_slashes(path: str) -> str:
    """Fold runs of slashes into one. Nothing but slashes becomes ``//``, because Envoy keeps both ends."""
    if "//" not in path:
        return path
    middle = "/".join(segment for segment in path.split("/") if segment)
    return "/" + middle + ("/" if path.endswith("/") else "")
