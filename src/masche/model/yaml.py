"""YAML (and JSON) into resources and back.

``load`` never raises and never half-applies: it returns the resources that are right, and a Diagnostic with place,
reason and cure for everything that is wrong, all in one pass.
"""

import gc
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import yaml
from pydantic import ValidationError

from masche.model.beyond import judged
from masche.model.codec import to_data
from masche.model.diagnostic import Diagnostic, Severity
from masche.model.documents import read
from masche.model.explain import dotted, explain, nearest, quoted
from masche.model.frozen import frozen
from masche.model.kinds import BY_KIND, CARRIED, Entry, not_carried_out
from masche.model.mesh import Resource
from masche.model.refs import Kind, Ref
from masche.model.resolver import ScalarError, plain
from masche.model.spot import Finding, Path, Spot
from masche.model.tree import Document

DEFAULT_NAMESPACE = "default"


@frozen
class Loaded:
    """The resources that are right, and what is to be said about all of them."""

    resources: tuple[Resource, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The Diagnostics that refuse something."""
        return tuple(found for found in self.diagnostics if found.severity is Severity.ERROR)


def load(text: str | bytes, *, file: str, namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    """Read the resources of one file. ``namespace`` is for those that name none. Never raises."""
    return load_many([(file, text)], namespace=namespace)


def load_many(files: Iterable[tuple[str, str | bytes]], *, namespace: str = DEFAULT_NAMESPACE) -> Loaded:
    """Read several files, each a name and its text, as one set: a resource may stand in only one of them."""
    loader = _Loader(namespace)
    with _paused_gc():
        for file, text in files:
            documents, diagnostics = read(text, file=file)
            loader.diagnostics += diagnostics
            for document in documents:
                loader.document(document)
    return Loaded(resources=tuple(loader.resources.values()), diagnostics=tuple(loader.diagnostics))


def dump(resource: Resource) -> str:
    """Write one resource as YAML that ``load`` reads back as it was. A Secret is written out whole."""
    return yaml.dump(to_data(resource), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def is_valid(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether the standards themselves allow it, be it carried out here or not."""
    return not any(found.code.startswith("invalid-") for found in diagnostics if found.severity is Severity.ERROR)


class _Dumper(yaml.CSafeDumper):
    """Writes what means the same in YAML 1.1 and 1.2, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _represent_text(_dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    """PyYAML quotes what YAML 1.1 takes for something else than text; here is the rest (``1e3``, ``0o17``)."""
    try:
        style = None if plain(text) == text else "'"
    except ScalarError:
        style = "'"
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


@contextmanager
def _paused_gc() -> Generator[None]:
    """Thousands of small objects that all survive make the collector run for nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Loader:
    """Collects resources and Diagnostics over all documents."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.resources: dict[Ref, Resource] = {}
        self.diagnostics: list[Diagnostic] = []

    def document(self, document: Document) -> None:
        """Read one document: a resource, or a List of them."""
        for data, path in _unfolded(document):
            _Reading(self, document, data, path).run()


def _unfolded(document: Document) -> Iterator[tuple[Any, Path]]:
    """The resources of a document with their paths: the items of a ``kind: List``, or the document itself."""
    spot = Spot(document.data)
    if not spot.is_there:
        return
    if spot["kind"].text() == "List" and spot["items"].length:
        yield from ((item.value, item.path) for item in spot["items"])
    else:
        yield spot.value, ()


class _Reading:
    """The reading of one resource: what it is, what is wrong with it, and the resource when nothing is."""

    def __init__(self, loader: _Loader, document: Document, data: Any, path: Path) -> None:
        self.loader, self.document, self.data, self.path = loader, document, data, path
        self.label, self.ref = document.file, cast("Ref | None", None)
        self.has_error = not document.is_sound

    def run(self) -> None:
        """Read it, and give what was found to the loader."""
        spot = Spot(self.data)
        if not spot.is_map:
            fix = "write apiVersion, kind, metadata and spec"
            self._say(spot.invalid("this is no resource", fix, code="invalid-document"))
            return
        entry = self._entry(spot)
        if entry is None:
            return
        self.label, self.ref = _label(entry, spot, self.loader.namespace)
        self._check(entry, self._placed(entry, spot))

    def _entry(self, spot: Spot) -> Entry | None:
        kind, version = spot["kind"].text(), spot["apiVersion"].text()
        self.label = f"{kind or 'resource'}/{spot['metadata']['name'].text('?')[:253]}"
        if not kind or not version:
            missing = "kind" if not kind else "apiVersion"
            self._say(spot.invalid(f"{missing}: Required value", f"add {missing}", code="invalid-missing"))
            return None
        entry = BY_KIND.get(kind)
        if entry and version in entry.api_versions:
            return entry
        if entry and version.rpartition("/")[0] == entry.group:
            known = " or ".join(entry.api_versions)
            why = f"{kind} has no version {quoted(version)}"
            self._say(spot["apiVersion"].invalid(why, f"write apiVersion: {known}", code="invalid-kind"))
            return None
        self._unknown(kind, version, spot)
        return None

    def _unknown(self, kind: str, version: str, spot: Spot) -> None:
        entry = BY_KIND.get(kind)
        if entry:
            why = f"{kind} is not of the group {quoted(version)}"
            fix = f"write apiVersion: {entry.api_versions[0]}"
            self._say(spot["apiVersion"].invalid(why, fix, code="invalid-kind"))
            return
        if known := not_carried_out(kind):
            self._say(Finding(path=("kind",), code="not-carried-out", why=known[0], fix=known[1]))
            return
        near = nearest(kind, list(CARRIED))
        why = f"there is no kind {quoted(kind)} in {quoted(version)}; the kinds are {', '.join(CARRIED)}"
        fix = f"did you mean {near}?" if near else "use one of these kinds"
        self._say(spot["kind"].invalid(why, fix, code="invalid-kind"))

    def _placed(self, entry: Entry, spot: Spot) -> dict[str, Any]:
        """The data without apiVersion and kind, and with its namespace."""
        data = {key: item.value for key, item in spot.entries() if key not in {"apiVersion", "kind"}}
        meta = spot["metadata"]
        if not meta.is_map:
            return data
        fields = {key: item.value for key, item in meta.entries()}
        if entry.is_namespaced:
            fields["namespace"] = fields.get("namespace") or self.loader.namespace
        elif fields.pop("namespace", None):
            why = f"a {entry.kind} lives in no namespace"
            self._say(meta["namespace"].invalid(why, "remove it", code="invalid-field"))
        return {**data, "metadata": fields}

    def _check(self, entry: Entry, data: dict[str, Any]) -> None:
        modelled, findings = judged(data, entry.beyond)
        findings += entry.rules(Spot(data))
        spoken = {found.path for found in findings if found.code == "not-carried-out"}
        resource = None
        try:
            resource = entry.shape.model_validate(modelled, by_alias=True, by_name=False)
        except ValidationError as error:
            findings += (found for found in explain(error, entry.shape, data) if found.path not in spoken)
        for found in findings:
            self._say(found)
        if entry.manifest is None:
            why, fix = not_carried_out(entry.kind) or (f"{entry.kind} is not carried out yet", "remove it")
            self._say(Finding(path=("kind",), code="not-carried-out", why=why, fix=fix))
        if resource is not None and not self.has_error:
            self._keep(cast("Resource", resource))

    def _keep(self, resource: Resource) -> None:
        if resource.ref in self.loader.resources:
            why = f"{resource.ref} stands twice in what is read here"
            self._say(Finding(path=("metadata", "name"), code="invalid-duplicate", why=why, fix="keep one of them"))
            return
        self.loader.resources[resource.ref] = resource

    def _say(self, found: Finding) -> None:
        self.has_error = self.has_error or found.severity is Severity.ERROR
        place = self.document.place((*self.path, *found.path), at_key=found.at_key)
        where = f"{self.label} {dotted(found.path)}".rstrip()
        self.loader.diagnostics.append(
            Diagnostic(
                code=found.code,
                where=where,
                why=found.why,
                fix=found.fix,
                severity=found.severity,
                place=place,
                ref=self.ref,
            )
        )


def _label(entry: Entry, spot: Spot, default: str) -> tuple[str, Ref | None]:
    """How people call the resource, ``HTTPRoute/shop/cart``, and its Ref when it is of a kind that we carry."""
    meta = spot["metadata"]
    name = meta["name"].text()
    namespace = (meta["namespace"].text() or default) if entry.is_namespaced else ""
    label = "/".join(part for part in (entry.kind, namespace, name or "?") if part)
    return label, Ref(Kind(entry.kind), namespace, name) if entry.manifest and name else None
