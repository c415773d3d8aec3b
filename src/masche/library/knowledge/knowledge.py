"""What the mesh says, as this process knows it: from an authority to its routes, clusters and endpoints, kept current.

What is called is watched: the Listener that an authority's name leads to, its table of routes, and of the virtual host
that is meant all clusters and endpoints; nothing else, so that a large mesh costs a caller of three services only
three. Everything is decided in one event loop; other threads read values that are replaced whole. Invariant: a Known is
complete, and stays until its successor is (gRFC A74).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from random import Random
from typing import Final

from masche.library.core.ports import Known, MeshError, Now
from masche.library.knowledge.names import Names, NameWatch, Resolver, resolve
from masche.library.knowledge.parts import NAMES, assemble, in_words, is_same
from masche.library.knowledge.tree import KINDS, Place, Said, Tree, trouble
from masche.model.told import Table, Told
from masche.traffic.virtual_hosts import HostIndex
from masche.wire.types import LISTENER, ROUTES
from masche.xds.client import Watch, XdsClient, paced
from masche.xds.client_words import Key, Resource, Standing

ANSWERS: Final = 1024
"""So many authorities are answered by one look-up; of any more the virtual host is searched for each time."""

LISTENERS: Final = 1000
"""So many Listeners are watched at most, where each authority has its own."""

IDLE: Final = 24 * 3600.0
"""Seconds after which what nobody asks for any more is no longer watched."""

_SAID: Final = 3
"""So many reasons why something will not come are said at once."""

_ENDED: Final = "the mesh has ended in this process"


class XdsKnowledge:
    """Knowledge by xDS: implements ``library.core.ports.Knowledge``.

    ``template`` makes the Listener's name of an authority, which takes the place of ``%s`` in it. The client is run by
    whoever made it, in the loop in which ``run`` runs. ``known``, ``want`` and ``waiting_for`` are for any thread.
    ``prepare`` is given what is new before anybody else is: what it does then, no caller has to wait for.
    """

    def __init__(
        self,
        client: XdsClient,
        *,
        now: Now,
        rng: Random,
        template: str = "%s",
        resolver: Resolver = resolve,
        idle: float = IDLE,
        most_listeners: int = LISTENERS,
        prepare: Callable[[Known], object] = id,
    ) -> None:
        self._client, self._template, self._now, self._idle = client, template, now, idle
        self._most_listeners, self._prepare = most_listeners, prepare
        self._names = Names(resolver=resolver, rng=rng, changed=self._settle)
        self._trees: dict[str, Tree] = {}
        self._said = Said({})
        self._dirty_trees: dict[str, Tree] = {}
        self._dirty: dict[tuple[str, str], Place] = {}
        self._wishes: deque[Callable[[], None]] = deque()
        self._asked: set[str] = set()
        self._waiting: dict[str, list[Future[Known]]] = {}
        self._missing: tuple[Key, ...] = ()
        self._troubles: tuple[str, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake = asyncio.Event()
        self._settling = asyncio.Lock()
        self._end = ""
        client.after_changes(self._settle)

    # For any thread

    def known(self, authority: str) -> Known | None:
        """Return what is known of ``host`` or ``host:port``; None: not told yet, or not any more. Never blocks."""
        found = self._said.answers.get(authority)
        return found if found is not None else self._look_up(authority)

    def want(self, authority: str) -> "Future[Known]":
        """Complete as soon as something is known; fails with a MeshError where nothing ever will be."""
        future: Future[Known] = Future()
        known = self.known(authority)
        if known is not None:
            future.set_result(known)
        else:
            self._tell(lambda: self._wait(authority.lower(), future))
        return future

    def waiting_for(self) -> str:
        """Say what is waited for, and of whom; empty: for nothing."""
        missing, troubles = self._missing, self._troubles
        if self._end:
            return self._end
        if not missing:
            return "; ".join(troubles)
        what = in_words(missing, KINDS)
        return "; ".join((*troubles, self._client.waiting_for() or f"{what}, from the control plane"))

    def _look_up(self, authority: str) -> Known | None:
        """The slower way: search the virtual host, and let it be asked for when it is not, or was not for long."""
        said = self._said
        wanted = authority.lower()
        tree = self._trees.get(self._listener_of(wanted))
        found = None
        if tree:
            domain, found = tree.answer(wanted)
            tree.asked_at = self._now()
            if place := tree.places.get(domain):
                place.asked_at = tree.asked_at
        if found is None:
            found = said.before.get(wanted)
            self._ask(wanted)
        elif len(said.answers) < ANSWERS:
            said.answers[authority] = found
        return found

    def _listener_of(self, authority: str) -> str:
        return self._template.replace("%s", authority)

    def _ask(self, authority: str) -> None:
        if authority not in self._asked and len(self._asked) < ANSWERS:
            self._asked.add(authority)
            self._tell(lambda: self._place(authority))

    def _tell(self, wish: Callable[[], None]) -> None:
        """Have something done in the loop, as soon as it runs."""
        self._wishes.append(wish)
        loop = self._loop
        if self._end:
            self._finish(self._end)
        elif loop is not None:
            try:
                loop.call_soon_threadsafe(self._awake.set)
            except RuntimeError:
                self._finish(_ENDED)

    # In the loop

    async def run(self) -> None:
        """Keep what is asked for current. Returns only by cancellation; then nobody is left waiting."""
        self._loop = asyncio.get_running_loop()
        self._awake.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._names.run())
                tasks.create_task(self._sweep())
                while True:
                    await self._awake.wait()
                    self._awake.clear()
                    await paced(self._grant())
                    await self._settle()
        finally:
            self._finish(_ENDED)

    def _grant(self) -> Generator[None, None, None]:
        while self._wishes:
            self._wishes.popleft()()
            yield

    def _finish(self, why: str) -> None:
        self._end = why
        while self._wishes:
            self._wishes.popleft()()
        for futures in self._waiting.values():
            for future in futures:
                _fail(future, why)
        self._waiting.clear()

    def _place(self, authority: str) -> None:
        """Begin to watch what an authority needs."""
        self._asked.discard(authority)
        if self._end:
            return
        tree = self._tree(authority)
        tree.asked_at = self._now()
        found = tree.index.find(authority) if tree.index else None
        if found is not None and found.domain not in tree.places:
            place = tree.places[found.domain] = Place(found.host, now=self._now())
            self._dirty[tree.name, found.domain] = place
        elif tree.index is None and len(self._waiting) < ANSWERS:
            self._waiting.setdefault(authority, [])

    def _tree(self, authority: str) -> Tree:
        name = self._listener_of(authority)
        tree = self._trees.get(name)
        if tree is None:
            if len(self._trees) >= self._most_listeners:
                self._drop_tree(min(self._trees.values(), key=lambda each: (each.table is not None, each.asked_at)))
            tree = Tree(name, now=self._now())
            self._trees = {**self._trees, name: tree}
            tree.listener = self._client.watch(LISTENER, name, lambda _: self._soil(tree))
            self._dirty_trees[name] = tree
        return tree

    def _soil(self, tree: Tree) -> None:
        self._dirty_trees[tree.name] = tree

    def _wait(self, authority: str, future: "Future[Known]") -> None:
        if self._end:
            _fail(future, self._end)
            return
        self._place(authority)
        self._waiting.setdefault(authority, []).append(future)
        future.add_done_callback(
            lambda done: self._tell(lambda: self._leave(authority, done)) if done.cancelled() else None
        )

    def _leave(self, authority: str, future: "Future[Known]") -> None:
        futures = self._waiting.get(authority, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[authority]

    async def _settle(self) -> None:
        """Bring everything up to date, in slices, and say it."""
        async with self._settling:
            await paced(self._work())
            await paced(self._serve())
            while self._dirty_trees or self._dirty:
                await paced(self._work())
                await paced(self._serve())

    def _work(self) -> Generator[None, None, None]:
        while self._dirty_trees:
            _, tree = self._dirty_trees.popitem()
            if self._trees.get(tree.name) is tree:
                yield from self._work_tree(tree)
        has_news = False
        while self._dirty:
            (name, domain), place = self._dirty.popitem()
            tree = self._trees.get(name)
            if tree and tree.places.get(domain) is place:
                has_news |= self._work_place(tree, domain, place)
            yield
        if has_news:
            self._publish()

    def _work_tree(self, tree: Tree) -> Generator[None, None, None]:
        """Follow a Listener to its table, which stays until there is another."""
        assert tree.listener is not None, "a tree that is watched has a Listener"
        resource = tree.listener.resource
        if isinstance(resource.value, Told):
            told = resource.value
            table, tree.trouble = self._table(tree, told)
            if table is not None and (table is not tree.table or told is not tree.told):
                yield from self._move(tree, tree.take(told, table))
        else:
            tree.trouble = trouble(LISTENER, tree.name, resource)
            if resource.standing is Standing.ABSENT and tree.table is not None:
                self._empty(tree)

    def _table(self, tree: Tree, told: Told) -> tuple[Table | None, str]:
        """Return the table that a Listener has or names, and otherwise why there is none."""
        if told.table is not None:
            self._name_table(tree, "")
            return told.table, ""
        self._name_table(tree, told.table_name)
        assert tree.routes is not None, "a Listener without a table names one"
        found = tree.routes.resource
        if isinstance(found.value, Table):
            return found.value, ""
        return None, trouble(ROUTES, told.table_name, found)

    def _name_table(self, tree: Tree, name: str) -> None:
        if tree.routes_name == name:
            return
        before, tree.routes_name = tree.routes, name
        tree.routes = self._client.watch(ROUTES, name, lambda _: self._soil(tree)) if name else None
        if before:
            before.close()

    def _move(self, tree: Tree, index: HostIndex) -> Generator[None, None, None]:
        """Go over to another table. Who was answered is answered as before until there is a new answer."""
        said = self._said
        carried = {**said.before, **{name.lower(): known for name, known in said.answers.items()}}
        for domain, place in list(tree.places.items()):
            host = index.get(domain)
            if host is None:
                del tree.places[domain]
                place.close()
            else:
                place.source = host
                self._dirty[tree.name, domain] = place
            yield
        before: dict[str, Known] = {}
        for authority, known in carried.items():
            if self._listener_of(authority) == tree.name:
                self._place(authority)
                if tree.answer(authority)[1] is not None:
                    continue
            if len(before) < ANSWERS:
                before[authority] = known
            yield
        self._said = Said(before)

    def _empty(self, tree: Tree) -> None:
        tree.lose()
        self._name_table(tree, "")
        kept = {name: known for name, known in self._said.before.items() if self._listener_of(name) != tree.name}
        self._said = Said(kept)

    def _work_place(self, tree: Tree, domain: str, place: Place) -> bool:
        """Ask for what a virtual host needs until nothing more is needed. Return whether something new is known."""
        host = tree.host(place)

        def look(key: Key) -> Resource | None:
            watch = place.watches.get(key)
            return watch.resource if watch else None

        while True:
            found = assemble(host, look)
            fresh = found.needs - place.watches.keys()
            if not fresh:
                break
            for key in sorted(fresh):
                place.watches[key] = self._watch(key, tree, domain, place)
        place.missing = found.missing
        if found.known is None:
            return False
        for key in place.watches.keys() - found.needs:
            place.watches.pop(key).close()
        if place.known is not None and is_same(place.known, found.known):
            return False
        known = tree.shared(found.known)
        self._prepare(known)
        place.known = known
        return True

    def _watch(self, key: Key, tree: Tree, domain: str, place: Place) -> Watch | NameWatch:
        def heard(_: Resource) -> None:
            self._dirty[tree.name, domain] = place

        kind, name = key
        return self._names.watch(name, heard) if kind == NAMES else self._client.watch(kind, name, heard)

    def _publish(self) -> None:
        """Let readers look again: what they kept may be of yesterday."""
        before = self._said.before
        left = {name: known for name, known in before.items() if self._answered(name) is None}
        self._said = Said(left)

    def _answered(self, authority: str) -> Known | None:
        tree = self._trees.get(self._listener_of(authority))
        return tree.answer(authority)[1] if tree else None

    def _serve(self) -> Generator[None, None, None]:
        """Complete what is waited for, and note what is missing still."""
        missing: dict[Key, None] = {}
        for authority in list(self._waiting):
            yield
            known = self._answered(authority)
            tree = self._trees.get(self._listener_of(authority))
            if known is None and tree is not None and not tree.why_nothing:
                self._note_missing(tree, authority, missing)
                continue
            futures = self._waiting.pop(authority, [])
            if known is not None and len(self._said.answers) < ANSWERS:
                self._said.answers[authority] = known
            for future in futures:
                if known is not None and tree is not None:
                    _complete(future, known)
                else:
                    _fail(future, tree.why_nothing if tree else "too many other hosts are called")
        self._missing = tuple(missing)
        troubles = dict.fromkeys(tree.why_nothing for tree in self._trees.values() if tree.why_nothing)
        self._troubles = tuple(troubles)[-_SAID:]

    def _note_missing(self, tree: Tree, authority: str, missing: dict[Key, None]) -> None:
        if tree.index is None:
            missing[(ROUTES, tree.routes_name) if tree.routes_name else (LISTENER, tree.name)] = None
        elif place := tree.places.get(tree.answer(authority)[0]):
            missing.update(dict.fromkeys(place.missing))
        else:
            self._place(authority)

    # What nobody asks for

    async def _sweep(self) -> None:
        """Forget what was not asked for since long. Readers must ask anew now and then, so that it is seen who does."""
        while True:
            await asyncio.sleep(self._idle / 4)
            before = self._now() - self._idle
            for tree in list(self._trees.values()):
                for domain, place in list(tree.places.items()):
                    if place.asked_at < before:
                        del tree.places[domain]
                        place.close()
                if not tree.places and tree.asked_at < before:
                    self._drop_tree(tree)
            self._said = Said(self._said.before)

    def _drop_tree(self, tree: Tree) -> None:
        self._trees = {name: each for name, each in self._trees.items() if each is not tree}
        tree.close()

    def __repr__(self) -> str:
        places = [place for tree in self._trees.values() for place in tree.places.values()]
        waiting = self.waiting_for()
        known = sum(place.known is not None for place in places)
        return f"<XdsKnowledge {known} of {len(places)} hosts known{f', waiting for {waiting}' if waiting else ''}>"


def _complete(future: "Future[Known]", known: Known) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(known)


def _fail(future: "Future[Known]", why: str) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(MeshError(why))
