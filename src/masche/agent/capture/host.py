"""The hosts of captured workloads on one machine: made, kept, and taken away again.

Everything converges: whatever was left half made is finished or taken away by the next call. Invariants: what two
calls would change is changed by one of them at a time; a workload's addresses are the same whenever it comes back.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from masche.agent.capture import addresses, adopted, apply, host_rules, memory, needs, plan, ranges, rules
from masche.agent.capture.apply import CaptureError, Shell
from masche.agent.capture.exclusions import NOTHING, ExclusionError, Exclusions
from masche.agent.capture.host_rules import Addressed, HostRules
from masche.agent.capture.names import TABLE, names_of, path_of
from masche.agent.capture.needs import HERE, Machine
from masche.agent.capture.plan import Wanted
from masche.agent.capture.ranges import Range, RangeError
from masche.model.refs import Name

STAYS = (
    "what is excluded reaches this machine and nothing beyond, as this machine does not forward"
    " (sysctl net.ipv4.ip_forward=1 lets it)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a captured workload is: the file of its network namespace ("": the host's), its address, has it IPv6.

    Its proxy takes what leaves at ``outbound_port`` and what arrives at ``inbound_port``, names are answered at
    ``dns_port``, all of them on every address of that namespace. ``caution`` is what the person who asked should know.
    """

    namespace_path: str
    address: str
    has_ipv6: bool
    outbound_port: int = rules.OUTBOUND_PORT
    inbound_port: int = rules.INBOUND_PORT
    dns_port: int = rules.DNS_PORT
    caution: str = ""


class Host:
    """The captured workloads of one data folder. ``address_range`` "" takes one that goes nowhere yet."""

    def __init__(
        self, data: Path, *, file: Path, address_range: str = "", shell: Shell | None = None, machine: Machine = HERE
    ) -> None:
        self.names = names_of(data)
        self._machine = machine
        self._file = file
        self._memory = memory.read(file)
        self._asked_range = address_range
        self._shell = shell or Shell()
        self._changing = asyncio.Lock()
        self._range: Range | None = None
        self._told: HostRules | None = None

    def __repr__(self) -> str:
        return f"<Host {self.names.bridge} {self._memory.range}, {len(self._memory.numbers)} known>"

    @property
    def adopted(self) -> tuple[str, ...]:
        """The names of the network namespaces of others in which there is, or may be, a table of ours."""
        return tuple(sorted(self._memory.adopted.values()))

    async def prepare(self, workload: Name, *, exclusions: Exclusions = NOTHING) -> Place:
        """Give a workload a network namespace of its own, with everything in it. Raises CaptureError."""
        self._check(exclusions)
        async with self._changing:
            wanted = await self._wanted(workload)
            self._remember_leaving(workload, exclusions)
            try:
                await self._make(wanted, exclusions)
            except CaptureError:
                await self._make_again(wanted, exclusions)
            await self._tell_host()
        if wanted.has_ipv6:
            await apply.until_usable(wanted.namespace, str(wanted.range.address6(wanted.number)))
        return Place(
            namespace_path=str(path_of(wanted.namespace)),
            address=str(wanted.range.address(wanted.number)),
            has_ipv6=wanted.has_ipv6,
            caution=STAYS if exclusions.has_outbound and not apply.forwards() else "",
        )

    async def adopt(self, workload: Name, namespace: str, *, exclusions: Exclusions = NOTHING) -> Place:
        """Capture within a network namespace that somebody else made; it gets our table and nothing else of it changes.

        Raises CaptureError: there is none of that name, it leads nowhere, or somebody captures it already.
        """
        self._check(exclusions)
        async with self._changing:
            self._check_adoptable(workload, namespace)
            around = await adopted.look(self._shell, namespace)
            if around.has_table and self._memory.adopted.get(str(workload)) != namespace:
                raise CaptureError(
                    f"the network namespace {namespace} has a table {TABLE} already: another agent captures it",
                    fix=f"end it, or remove what it left: ip netns exec {namespace} nft delete table inet {TABLE}",
                )
            self._memory.adopted[str(workload)] = namespace
            memory.write(self._file, self._memory)
            await self._shell.rules(rules.table(exclusions), namespace)
        return Place(namespace_path=str(path_of(namespace)), address=around.address, has_ipv6=around.has_ipv6)

    async def capture_address(self, workload: Name, wanted: Addressed, *, but: Collection[str]) -> Place:
        """Capture what is sent from an address of this machine, and to it; ``but`` are those of the machine itself.

        Raises CaptureError: it is no address of this machine, the machine's own, or another workload's.
        """
        self._check(wanted.exclusions)
        async with self._changing:
            addresses.check(wanted.address, but=but)
            for other, its in self._memory.addressed.items():
                if its.address == wanted.address and other != str(workload):
                    raise CaptureError(f"the address {wanted.address} belongs to {other} already")
            self._memory.addressed[str(workload)] = wanted
            memory.write(self._file, self._memory)
            await self._tell_host()
        return Place(
            namespace_path="",
            address=wanted.address,
            has_ipv6=wanted.family == "ip6",
            outbound_port=wanted.outbound_port,
            inbound_port=wanted.inbound_port,
            dns_port=wanted.dns_port,
        )

    def _check_adoptable(self, workload: Name, namespace: str) -> None:
        if "/" in namespace or not apply.is_namespace(namespace):
            raise CaptureError(f"there is no network namespace {namespace!r}", fix="`ip netns` lists those there are")
        for other, its in self._memory.adopted.items():
            if its == namespace and other != str(workload):
                raise CaptureError(f"the network namespace {namespace} belongs to {other} already")

    async def release(self, workload: Name) -> None:
        """Take away what a workload was given; the bridge, too, when it was the last. Raises CaptureError."""
        async with self._changing:
            if namespace := self._memory.adopted.get(str(workload)):
                await self._return(str(workload), namespace)
                return
            number = self._memory.numbers.get(str(workload))
            self._remember_leaving(workload, NOTHING)
            if self._memory.addressed.pop(str(workload), None):
                memory.write(self._file, self._memory)
            await self._tell_host()
            links = tuple(each for each in (self.names.link(number or 0),) if apply.has_link(each))
            namespace = self.names.namespace(workload)
            await self._remove(links, tuple(each for each in (namespace,) if path_of(each).exists()))

    async def sweep(self, taken: Collection[Name]) -> None:
        """Take away everything that belongs to none of these workloads. Raises CaptureError."""
        async with self._changing:
            numbers = {self._memory.numbers.get(str(each), 0) for each in taken}
            kept = {self.names.link(number) for number in numbers} | {self.names.namespace(each) for each in taken}
            links = tuple(each for each in apply.links_like(self.names.links) if each not in kept)
            namespaces = tuple(each for each in apply.namespaces_like(self.names.namespaces) if each not in kept)
            await self._remove(links, namespaces)
            stay = frozenset(map(str, taken))
            for workload, namespace in tuple(self._memory.adopted.items()):
                if workload not in stay:
                    await self._return(workload, namespace)
            self._forget({*self._memory.leaving, *self._memory.addressed} - stay)
            await self._tell_host()

    async def cleanup(self) -> None:
        """Take away everything of this data folder, and forget it. Raises CaptureError."""
        await self.sweep(())
        if needs.can_make_tables(self._machine):  # also one of which nothing is remembered
            await self._shell.rules(host_rules.table(self.names, HostRules()))
        self._memory = memory.Memory()
        self._file.unlink(missing_ok=True)

    # -- how --------------------------------------------------------------------------------------------------------

    def _check(self, exclusions: Exclusions) -> None:
        needs.check(self._machine)
        try:
            exclusions.check()
        except ExclusionError as error:
            raise CaptureError(str(error)) from error

    async def _make_again(self, wanted: Wanted, exclusions: Exclusions) -> None:
        """What was seen may have been about to go: the link of a namespace goes a moment after that."""
        try:
            await self._make(wanted, exclusions)
        except CaptureError as error:
            raise await needs.explained(self._shell, error) from error

    async def _make(self, wanted: Wanted, exclusions: Exclusions) -> None:
        found = apply.look(self.names, wanted.namespace, wanted.outer)
        await self._shell.links(plan.outside(wanted, found))
        await self._shell.rules(rules.table(exclusions), wanted.namespace)
        await self._shell.links(plan.inside(wanted), wanted.namespace)

    def _forget(self, gone: Collection[str]) -> None:
        """These need nothing of the host any more."""
        if gone:
            self._memory.leaving.difference_update(gone)
            self._memory.addressed = {key: its for key, its in self._memory.addressed.items() if key not in gone}
            memory.write(self._file, self._memory)

    def _remember_leaving(self, workload: Name, exclusions: Exclusions) -> None:
        if exclusions.has_outbound is not (str(workload) in self._memory.leaving):
            self._memory.leaving ^= {str(workload)}
            memory.write(self._file, self._memory)

    async def _tell_host(self) -> None:
        """Have the table of ours on the host that is needed now, or none."""
        wanted = self._host_rules()
        if wanted == self._told or not (wanted or self._memory.has_table):
            return
        if not self._memory.has_table:
            self._memory.has_table = True
            memory.write(self._file, self._memory)
        await self._shell.rules(host_rules.table(self.names, wanted))
        self._told = wanted
        if not wanted:
            self._memory.has_table = False
            memory.write(self._file, self._memory)

    def _host_rules(self) -> HostRules:
        addressed = tuple(its for _, its in sorted(self._memory.addressed.items()))
        if not self._memory.leaving or not self._memory.range:
            return HostRules(addressed=addressed)
        network = ranges.parse(self._memory.range, self.names.tag)
        numbers = sorted(self._memory.numbers[each] for each in self._memory.leaving if each in self._memory.numbers)
        return HostRules(
            leaving=tuple(str(network.address(number)) for number in numbers),
            leaving6=tuple(str(network.address6(number)) for number in numbers),
            addressed=addressed,
        )

    async def _return(self, workload: str, namespace: str) -> None:
        """Leave an adopted namespace as it was."""
        if apply.is_namespace(namespace):
            await self._shell.rules(rules.gone(), namespace)
        del self._memory.adopted[workload]
        memory.write(self._file, self._memory)

    async def _remove(self, links: tuple[str, ...], namespaces: tuple[str, ...]) -> None:
        """Remove these, and the bridge when no link is left to it."""
        is_last = not set(apply.links_like(self.names.links)) - set(links)
        bridges = tuple(each for each in (self.names.bridge,) if is_last and apply.has_link(each))
        await self._shell.links(plan.removal(links=links, namespaces=namespaces, bridges=bridges))

    async def _wanted(self, workload: Name) -> Wanted:
        try:
            network = await self._chosen_range()
            known = self._memory.numbers.get(str(workload), 0)
            number = known or network.number_for(workload, frozenset(self._memory.numbers.values()))
        except RangeError as error:
            raise CaptureError(str(error)) from error
        if not known:
            self._memory.numbers[str(workload)] = number
            memory.write(self._file, self._memory)
        return Wanted(
            names=self.names,
            range=network,
            namespace=self.names.namespace(workload),
            number=number,
            has_ipv6=apply.has_ipv6(),
        )

    async def _chosen_range(self) -> Range:
        if self._range is None:
            routed = await self._shell.routed(but=self.names.bridge)
            self._range = self._choice(routed)
            if str(self._range.v4) != self._memory.range:
                self._memory.range = str(self._range.v4)
                memory.write(self._file, self._memory)
        return self._range

    def _choice(self, routed: "tuple[ranges.IPv4Network, ...]") -> Range:
        """The one that was asked for; else the one we had, while nobody else has it; else a free one."""
        tag = self.names.tag
        if self._asked_range:
            return ranges.parse(self._asked_range, tag)
        if self._memory.range:
            known = ranges.parse(self._memory.range, tag)
            if not any(known.v4.overlaps(each) for each in routed if each.prefixlen):
                return known
        return ranges.free(tag, routed)
