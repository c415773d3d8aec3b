"""Watches over leases: asks ``control.leases`` once a second what to do about silent workloads, and does it.

What is held back is an event once, and stays in the status until it is over.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from masche.control.leases import Census, Decision, Held, Leases, MarkUnhealthy, Remove, Restore, Verdict, census
from masche.control.world import World
from masche.model.mesh import Mesh
from masche.model.ports import ConflictError, Delete, Edit, Put, StoreError, Writer
from masche.model.refs import Kind, Name, Ref
from masche.model.resources.workload import WorkloadState
from masche.telemetry.events import Events

INTERVAL = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Whether leases are counted now, how many expired ones are held back, and why."""

    is_counting: bool
    held_back: int
    reason: str


class Vigil:
    """``successes`` says when callers last had an answer from each workload, in monotonic seconds."""

    def __init__(
        self,
        world: World,
        *,
        writer: Writer,
        leases: Leases,
        events: Events,
        successes: Callable[[], Mapping[Name, float]],
    ) -> None:
        self._world = world
        self._writer = writer
        self._leases = leases
        self._events = events
        self._successes = successes
        self._census: tuple[Mesh | None, Census] = (None, Census())
        self._held: tuple[Held, ...] = ()
        self._failed_at = float("-inf")

    async def watch(self) -> None:
        """Look once a second, for ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self._look()

    def facts(self) -> Facts:
        """What status says about leases."""
        since = self._synced_since()
        is_counting = since is not None and self._world.now() >= since + self._leases.lease
        held = len({name for each in self._held for name in each.expired})
        waiting = (
            "" if is_counting else "this control plane has not been up, synced and able to write for a whole lease"
        )
        return Facts(is_counting=is_counting, held_back=held, reason="; ".join(e.why for e in self._held) or waiting)

    def _synced_since(self) -> float | None:
        """Since when all is well without a break: a write that failed begins the count anew."""
        since = self._world.synced_since
        return max(since, self._failed_at) if since is not None and self._world.synced.is_set() else None

    async def _look(self) -> None:
        now = self._world.now()
        for workload, at in self._successes().items():
            self._leases.observe(workload, now=at)
        verdict = self._leases.tick(now=now, synced_since=self._synced_since(), census=self._counted())
        self._say_held(verdict)
        await self._carry_out(verdict.decisions)

    def _counted(self) -> Census:
        mesh = self._world.newest
        if self._census[0] is not mesh:
            self._census = (mesh, census(mesh))
        return self._census[1]

    def _say_held(self, verdict: Verdict) -> None:
        known = {each.service for each in self._held}
        for held in verdict.held:
            if held.service not in known:
                about = str(held.service) if held.service else "mesh"
                self._events.add(kind="lease-held", severity="warning", about=about, message=held.why)
        self._held = verdict.held

    async def _carry_out(self, decisions: tuple[Decision, ...]) -> None:
        edits = [edit for decision in decisions if (edit := self._edit(decision)) is not None]
        if not edits:
            return
        try:
            await self._writer.commit(edits, expect=self._world.newest_revision)
        except ConflictError:
            return  # somebody spoke meanwhile, maybe the very agent: it is judged anew in a second
        except StoreError as error:
            self._failed_at = self._world.now()
            self._events.add(kind="store-failed", severity="error", about="store", message=str(error))
            return
        for decision in decisions:
            self._events.add(
                kind="lease",
                severity="info" if isinstance(decision, Restore) else "warning",
                about=str(decision.workload),
                message=f"{decision.workload}: {decision.reason}",
            )

    def _edit(self, decision: Decision) -> Edit | None:
        workload = self._world.newest.workloads.get(decision.workload)
        if workload is None or workload.status is None:
            return None
        match decision:
            case Remove():
                return Delete(ref=Ref(Kind.WORKLOAD, workload.name.namespace, workload.name.name))
            case MarkUnhealthy():
                changed = {"state": WorkloadState.UNHEALTHY, "reason": decision.reason}
            case Restore():
                changed = {"state": WorkloadState.READY, "reason": ""}
        return Put(resource=workload.model_copy(update={"status": workload.status.model_copy(update=changed)}))
