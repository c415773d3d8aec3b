"""What people write: documents in, one revision out or none, and what it would do before it does it.

Everything is judged before anything is stored; an error anywhere stores nothing at all.
"""

import asyncio
import difflib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256

from masche.api.messages import Applied, Changed, Difference, Differences, Document, Impact, Verb
from masche.api.plane import Fault, PlaneError
from masche.compiler.impact import Move, affected
from masche.compiler.view import statuses
from masche.control.world import World, standing
from masche.model.diagnostic import Diagnostic, Severity
from masche.model.mesh import Mesh, Resource
from masche.model.ports import Change, ConflictError, Delete, Edit, Entry, Put, StoreError, Writer
from masche.model.refs import Kind, Name, Ref
from masche.model.resources.core import Secret
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.workload import Workload
from masche.model.yaml import dump, load
from masche.registry.merge import TABLES, merge
from masche.telemetry.events import Events

NAMED_IN_AN_EVENT = 5
KNOWN_WITHIN = 2.0


class Writing:
    """Apply, delete and diff. ``read_only`` says why people may not write here, or is empty."""

    def __init__(self, *, world: World, writer: Writer, events: Events, read_only: str = "") -> None:
        self._world = world
        self._writer = writer
        self._events = events
        self._read_only = read_only

    async def apply(self, documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Store all resources of all documents as one revision, or none."""
        resources, warnings = self._read(documents)
        edits = [Put(resource=resource) for resource in resources]
        return await self._write(edits, warnings, dry_run=dry_run)

    async def delete(self, refs: Sequence[Ref], documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Delete the refs and all that the documents name, as one revision."""
        resources, warnings = self._read(documents)
        wanted = tuple(dict.fromkeys((*refs, *(resource.ref for resource in resources))))
        await self._world.synced.tried()
        missing = [ref for ref in wanted if stored(self._world.newest, ref) is None]
        if missing:
            raise PlaneError(
                Fault.NOT_FOUND,
                f"there is no {', no '.join(map(str, missing))}; nothing was deleted",
                fix="`masche get` lists what there is",
            )
        return await self._write([Delete(ref=ref) for ref in wanted], warnings, dry_run=dry_run)

    async def diff(self, documents: Sequence[Document]) -> Differences:
        """What ``apply`` would change."""
        resources, warnings = self._read(documents)
        await self._world.synced.wait()
        mesh = self._world.newest
        found = [_difference(stored(mesh, resource.ref), resource) for resource in resources]
        return Differences(
            revision=self._world.revision,
            differences=tuple(each for each in found if each.verb is not Verb.UNCHANGED),
            diagnostics=tuple(warnings),
        )

    def _read(self, documents: Sequence[Document]) -> tuple[list[Resource], list[Diagnostic]]:
        loaded = [load(document.text, file=document.file) for document in documents]
        resources = [resource for each in loaded for resource in each.resources]
        found = [diagnostic for each in loaded for diagnostic in each.diagnostics]
        found += self._judge(resources)
        errors = [diagnostic for diagnostic in found if diagnostic.severity is Severity.ERROR]
        if errors:
            raise PlaneError(
                Fault.INVALID,
                f"{_count(len(errors), 'error')}; nothing was stored",
                fix="correct what is named and apply again",
                diagnostics=found,
            )
        return resources, found

    def _judge(self, resources: Iterable[Resource]) -> list[Diagnostic]:
        """What no resource can know of itself: names given twice, and what only the mesh may write."""
        found: list[Diagnostic] = []
        seen: set[Ref] = set()
        for resource in resources:
            if resource.ref in seen:
                found.append(_error(resource.ref, "named-twice", "is written twice", "keep one of the two"))
            seen.add(resource.ref)
            if isinstance(resource, MeshConfig) and resource.spec.trust_domain != self._world.trust_domain:
                why = f"spec.trustDomain is not {self._world.trust_domain}, under which this mesh was made"
                found.append(_error(resource.ref, "trust-domain-fixed", why, "leave trustDomain out"))
            if isinstance(resource, Workload) and (why := self._registered(resource)):
                found.append(_error(resource.ref, "workload-registered", why, "stop it where it runs instead"))
        return found

    def _registered(self, workload: Workload) -> str:
        known = self._world.newest.workloads.get(workload.name)
        if workload.status is not None:
            return "has a status, which only the mesh writes"
        if known is not None and known.status is not None:
            return f"is registered by machine {known.status.machine}"
        return ""

    async def _write(self, edits: Sequence[Edit], warnings: list[Diagnostic], *, dry_run: bool) -> Applied:
        if self._read_only and not dry_run:
            raise PlaneError(Fault.CONFLICT, self._read_only, fix="write the files there instead")
        await self._world.synced.tried()
        before = self._world.newest
        changed = tuple(_changed(before, edit) for edit in edits)
        after = _preview(before, edits, self._world.revision)
        warnings = [*warnings, *_findings(after, {each.ref for each in changed})]
        if dry_run:
            return Applied(
                revision=self._world.revision,
                changed=changed,
                diagnostics=tuple(warnings),
                is_dry_run=True,
                impact=self._impact(before, after),
            )
        change = await self._commit(edits)
        await self._known(change)
        self._announce(change)
        return Applied(revision=change.revision, changed=changed, diagnostics=tuple(warnings))

    async def _commit(self, edits: Sequence[Edit]) -> Change:
        try:
            return await self._writer.commit(edits)
        except ConflictError as error:
            raise PlaneError(Fault.CONFLICT, str(error), fix="apply again") from error
        except StoreError as error:
            raise PlaneError(Fault.UNAVAILABLE, str(error), fix="nothing was stored; apply again") from error

    async def _known(self, change: Change) -> None:
        """Whoever wrote and asks at once sees what they wrote, unless the store cannot be followed just now."""
        with suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_WITHIN):
                await self._world.until_newer_than(change.revision - 1)

    def _announce(self, change: Change) -> None:
        names = [*(str(entry.ref) for entry in change.entries), *(f"{ref} (deleted)" for ref in change.deleted)]
        if not names:
            return
        more = f" and {len(names) - NAMED_IN_AN_EVENT} more" if len(names) > NAMED_IN_AN_EVENT else ""
        message = f"revision {change.revision}: {', '.join(names[:NAMED_IN_AN_EVENT])}{more}"
        self._events.add(kind="applied", about=names[0], message=message)

    def _impact(self, before: Mesh, after: Mesh) -> tuple[Impact, ...]:
        moves: dict[tuple[str, Name], Move] = {}
        for registration in self._world.registrations:
            then = {seat.workload: vantage for vantage, seat in standing(after, registration)}
            for vantage, seat in standing(before, registration):
                key = registration.state.proxy, seat.workload
                moves[key] = vantage, then.get(seat.workload, vantage)
        sentences = affected(before, after, tuple(dict.fromkeys(moves.values())))
        return tuple(
            Impact(workload=str(workload), proxy=proxy, sentences=sentences[move])
            for (proxy, workload), move in sorted(moves.items())
            if move in sentences
        )


def stored(mesh: Mesh, ref: Ref) -> Resource | None:
    """A resource of the Mesh, if it is there."""
    if ref.kind is Kind.MESH_CONFIG:
        return mesh.config if ref.name == MeshConfig.NAME else None
    table: Mapping[Name, Resource] = getattr(mesh, TABLES[ref.kind])
    return table.get(Name(ref.namespace, ref.name))


def _preview(mesh: Mesh, edits: Sequence[Edit], revision: int) -> Mesh:
    entries = [
        Entry(ref=edit.resource.ref, resource=edit.resource, revision=revision, created_revision=revision)
        for edit in edits
        if isinstance(edit, Put)
    ]
    deleted = tuple(edit.ref for edit in edits if isinstance(edit, Delete))
    return merge(mesh, Change(revision=revision, entries=tuple(entries), deleted=deleted))


def _findings(mesh: Mesh, refs: set[Ref]) -> list[Diagnostic]:
    return [diagnostic for status in statuses(mesh) if status.ref in refs for diagnostic in status.diagnostics]


def _changed(mesh: Mesh, edit: Edit) -> Changed:
    if isinstance(edit, Delete):
        return Changed(ref=edit.ref, verb=Verb.DELETED)
    return Changed(ref=edit.resource.ref, verb=_verb(stored(mesh, edit.resource.ref), edit.resource))


def _verb(before: Resource | None, after: Resource) -> Verb:
    if before is None:
        return Verb.CREATED
    return Verb.UNCHANGED if _written(before) == _written(after) else Verb.CONFIGURED


def _written(resource: Resource) -> str:
    """The resource as people write it: without what the registry adds."""
    metadata = resource.metadata.model_copy(update={"creation_timestamp": None})
    return dump(resource.model_copy(update={"metadata": metadata}))


def _shown(resource: Resource) -> str:
    """The same for people to see: a secret value is told from another by a digest, and not shown."""
    text = _written(resource)
    for value in resource.data.values() if isinstance(resource, Secret) else ():
        if value:
            text = text.replace(b64encode(value).decode(), f"Secret({sha256(value).hexdigest()[:12]})")
    return text


def _difference(before: Resource | None, after: Resource) -> Difference:
    old = _shown(before).splitlines() if before is not None else []
    lines = difflib.unified_diff(old, _shown(after).splitlines(), "stored", "given", lineterm="")
    return Difference(ref=after.ref, verb=_verb(before, after), lines=tuple(lines))


def _error(ref: Ref, code: str, why: str, fix: str) -> Diagnostic:
    return Diagnostic(code=code, where=str(ref), why=why, fix=fix, ref=ref)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
