"""What of a workload's traffic is left alone, as it was asked for. Pure."""

import ipaddress
from dataclasses import dataclass


class ExclusionError(ValueError):
    """An exclusion is none; the text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusions:
    """``outbound_addresses`` are addresses or networks of either family; ``uids`` whose processes are left alone.

    Excluded ports and uids are left alone with their questions for names, too; excluded addresses are not, as whoever
    asks one for a name still asks the mesh.
    """

    outbound_ports: tuple[int, ...] = ()
    outbound_addresses: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    inbound_ports: tuple[int, ...] = ()

    @property
    def has_outbound(self) -> bool:
        """Whether anything leaves past the proxy."""
        return bool(self.outbound_ports or self.outbound_addresses or self.uids)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The excluded IPv4 networks, as nft takes them."""
        return _collapsed(self.outbound_addresses, 4)

    @property
    def addresses6(self) -> tuple[str, ...]:
        """The excluded IPv6 networks."""
        return _collapsed(self.outbound_addresses, 6)

    def check(self) -> None:
        """Raise ExclusionError for what is no port, address or uid."""
        for port in (*self.outbound_ports, *self.inbound_ports):
            if not 0 < port < 1 << 16:
                raise ExclusionError(f"{port} is no port to exclude: write 1 to 65535")
        for uid in self.uids:
            if not 0 <= uid < (1 << 32) - 1:
                raise ExclusionError(f"{uid} is no uid to exclude")
        for address in self.outbound_addresses:
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError as error:
                raise ExclusionError(f"{address!r} is no address or network to exclude") from error


NOTHING = Exclusions()
"""Everything is captured."""


def _collapsed(given: tuple[str, ...], version: int) -> tuple[str, ...]:
    """Without what another covers, for a set of nft takes no intervals that overlap."""
    networks = [ipaddress.ip_network(each, strict=False) for each in given]
    if version == 4:
        return tuple(
            map(str, ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network)))
        )
    return tuple(map(str, ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))))
