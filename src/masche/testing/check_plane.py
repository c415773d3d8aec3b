"""What every control plane must do for its API, as a check that the real one and the one in memory both pass."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable

from masche.api.access import TokenRequest
from masche.api.messages import Document, Event, MeshStatus, Rollout, RolloutState, Verb
from masche.api.plane import Fault, Plane, PlaneError
from masche.api.traffic import Graph, LiveMessage
from masche.model.refs import Kind, Ref

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: checked, namespace: check-plane, labels: {tier: back}}
spec: {selector: {app: checked}, ports: [{name: http, port: 80}]}
"""
REF = Ref(Kind.SERVICE, "check-plane", "checked")
WRONG = "apiVersion: v1\nkind: Nonsense\nmetadata: {name: wrong, namespace: check-plane}\n"
DEADLINE = 10.0


async def check_plane(plane: Plane) -> None:
    """Write, read and take back; nothing is left behind. Raises AssertionError naming what was promised."""
    await _check_dry_run(plane)
    await _check_apply(plane)
    await _check_refusal(plane)
    await _check_delete(plane)
    await _check_tokens(plane)
    await _check_live(plane)


def _documents(*texts: str) -> list[Document]:
    return [Document(file=f"{number}.yaml", text=text) for number, text in enumerate(texts)]


async def _check_dry_run(plane: Plane) -> None:
    applied = await plane.apply(_documents(SERVICE), dry_run=True)
    assert applied.is_dry_run, "a dry run says that it is one"
    assert [change.verb for change in applied.changed] == [Verb.CREATED], "a dry run says what would become of it"
    await _missing(plane, "a dry run stores nothing")
    differences = (await plane.diff(_documents(SERVICE))).differences
    assert [each.ref for each in differences] == [REF], "diff names what apply would change"


async def _check_apply(plane: Plane) -> None:
    first = await plane.apply(_documents(SERVICE), dry_run=False)
    assert [(change.ref, change.verb) for change in first.changed] == [(REF, Verb.CREATED)], "apply creates"
    rollout = await _rollout(plane, first.revision)
    assert rollout.state is RolloutState.LIVE, "a revision that concerns no proxy is live"
    again = await plane.apply(_documents(SERVICE), dry_run=False)
    assert again.revision == first.revision, "applying the same makes no revision"
    assert [change.verb for change in again.changed] == [Verb.UNCHANGED], "applying the same changes nothing"
    assert (await plane.get(REF)).manifest["spec"]["ports"][0]["port"] == 80, "what was written is read back"
    assert (await plane.describe(REF)).item.ref == REF, "what is stored can be described"
    await _check_listing(plane)
    assert not (await plane.diff(_documents(SERVICE))).differences, "diff of what is stored is empty"


async def _check_listing(plane: Plane) -> None:
    for namespace, labels, is_found in (
        (None, {}, True),
        ("check-plane", {"tier": "back"}, True),
        ("check-plane", {"tier": "front"}, False),
        ("elsewhere", {}, False),
    ):
        listed = [item.ref for item in (await plane.list(Kind.SERVICE, namespace=namespace, labels=labels)).items]
        assert (REF in listed) is is_found, f"list picks by namespace {namespace} and labels {labels}"


async def _check_refusal(plane: Plane) -> None:
    other = SERVICE.replace("name: checked", "name: half")
    error = await _refusal(plane.apply(_documents(other, WRONG), dry_run=False))
    assert error.fault is Fault.INVALID, "documents with a mistake are refused"
    places = [found.place.file for found in error.diagnostics if found.place is not None]
    assert "1.yaml" in places, "the finding names the file"
    half = await _refusal(plane.get(Ref(Kind.SERVICE, "check-plane", "half")))
    assert half.fault is Fault.NOT_FOUND, "nothing of a refused apply is stored"
    ahead = (await plane.status()).plane.revision + 1000
    assert (await plane.progress(ahead)).state is RolloutState.PENDING, "a revision that is not reached is not live"


async def _check_delete(plane: Plane) -> None:
    deleted = await plane.delete([REF], (), dry_run=False)
    assert [(change.ref, change.verb) for change in deleted.changed] == [(REF, Verb.DELETED)], "delete deletes"
    await _missing(plane, "what was deleted is gone")
    error = await _refusal(plane.delete([REF], (), dry_run=False))
    assert error.fault is Fault.NOT_FOUND, "deleting what is not there says so"


async def _check_tokens(plane: Plane) -> None:
    created = await plane.create_token(TokenRequest(namespaces=("check-plane",), ttl=60.0))
    assert created.join_string.startswith("masche://"), "a join string is one"
    assert created.token.id in {token.id for token in (await plane.tokens()).tokens}, "a new token is listed"
    await plane.revoke_token(created.token.id)
    assert created.token.id not in {token.id for token in (await plane.tokens()).tokens}, "a revoked token is gone"
    assert (await _refusal(plane.revoke_token(created.token.id))).fault is Fault.NOT_FOUND, "revoked twice is not found"
    forever = TokenRequest(namespaces=("check-plane",), ttl=1e9)
    assert (await _refusal(plane.create_token(forever))).fault is Fault.INVALID, "no token is good for years"


async def _check_live(plane: Plane) -> None:
    stream = plane.live(after=0)
    seen: set[type[LiveMessage]] = set()
    try:
        async with asyncio.timeout(DEADLINE):
            while not {MeshStatus, Graph} <= seen:
                message = await anext(stream)
                seen.add(type(message))
                assert not (isinstance(message, Event) and message.sequence < 1), "events count from 1"
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


async def _rollout(plane: Plane, revision: int) -> Rollout:
    async with asyncio.timeout(DEADLINE):
        while (rollout := await plane.progress(revision)).state is RolloutState.PENDING:  # noqa: ASYNC110 - a Plane is asked, it does not tell
            await asyncio.sleep(0.01)
    return rollout


async def _missing(plane: Plane, promise: str) -> None:
    assert (await _refusal(plane.get(REF))).fault is Fault.NOT_FOUND, promise


async def _refusal(asked: Awaitable[object]) -> PlaneError:
    try:
        await asked
    except PlaneError as error:
        return error
    raise AssertionError("it should have been refused")
