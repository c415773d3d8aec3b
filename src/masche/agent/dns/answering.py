"""Decides what becomes of one DNS query of one workload: an answer from its Scope, or the host's resolvers' word.

Invariant: of the mesh a workload is told only names of its own Scope, and every name of the mesh is decided here, at
once, so that no resolver that is dead or far away can hold up a call inside the mesh. Pure.

The messages are read and written by dnspython. What is answered is kept by the bytes that asked, since a stub resolver
asks the same thing with the same bytes, and reading costs 0.7 ms.
"""

import struct
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from masche.agent.dns.names import Names

TTL: Final = 5
"""Seconds. An address never changes while its Service lives, but a Service may leave a Scope."""

OWN_DOMAIN: Final = "mesh"
"""Names below it are the mesh's alone: nothing of them is ever asked outside."""

LARGEST_QUERY: Final = 1024
"""Bytes; a question has at most 259, and options of a stub resolver are few."""

LARGEST_DATAGRAM: Final = 1232
"""Bytes that pass every path of IPv6 unfragmented, "the recommended maximum" of the DNS flag day 2020."""

SMALLEST_LIMIT: Final = 512
"""Bytes of a UDP message without EDNS (RFC 1035, section 4.2.1)."""

_HEADER: Final = struct.Struct("!HHHHHH")
_REMEMBERED: Final = 256
_FAMILIES: Final = {dns.rdatatype.A: False, dns.rdatatype.AAAA: True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A query that the host's resolvers are to answer, written afresh: what they get is well-formed whatever came.

    ``limit`` is the most bytes that whoever asked takes in a datagram.
    """

    query: bytes
    question: bytes
    limit: int


class Answering:
    """Decides the queries of one workload for as long as its names and the host's search domains stay what they are."""

    def __init__(self, names: Names, search: tuple[str, ...] = ()) -> None:
        self.names = names
        self.search = search
        self._remembered: dict[bytes, bytes | Elsewhere] = {}

    def __repr__(self) -> str:
        return f"<Answering {len(self.names)} names, {len(self._remembered)} remembered>"

    def decide(self, query: bytes) -> bytes | Elsewhere | None:
        """Return the reply, or that others must be asked; None for what must not be replied to at all."""
        if len(query) < _HEADER.size or query[2] & 0x80:
            return None  # never a reply to a reply: two that do so would keep each other busy
        if (known := self._remembered.get(query[2:])) is None:
            known = self._decide(query)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[query[2:]] = known
        return known if isinstance(known, Elsewhere) else query[:2] + known[2:]

    def _decide(self, query: bytes) -> bytes | Elsewhere:
        _, flags, questions, *_ = _HEADER.unpack_from(query)
        if dns.opcode.from_flags(flags) is not dns.opcode.QUERY:
            return refusal(query, dns.rcode.NOTIMP)
        if len(query) > LARGEST_QUERY or questions != 1:
            return refusal(query, dns.rcode.FORMERR)
        try:
            message = dns.message.from_wire(query)
            return self._reply(message)
        except (dns.exception.DNSException, ValueError):  # ValueError: some options are read without care in dnspython
            return refusal(query, dns.rcode.FORMERR)

    def _reply(self, message: dns.message.Message) -> bytes | Elsewhere:
        question = message.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        addresses = self._addresses(name)
        if message.edns > 0:
            return _written(message, dns.rcode.BADVERS)
        if question.rdclass is not dns.rdataclass.IN:
            return _written(message, dns.rcode.REFUSED)
        if addresses is not None:
            return _written(message, dns.rcode.NOERROR, addresses)
        if name == OWN_DOMAIN or name.endswith(f".{OWN_DOMAIN}"):
            return _written(message, dns.rcode.NXDOMAIN)
        return _elsewhere(message)

    def _addresses(self, name: str) -> tuple[str, ...] | None:
        """Those of a name, or of what is left of it without a search domain that a stub resolver has put behind it."""
        if (found := self.names.get(name)) is not None:
            return found
        for domain in self.search:
            short = name.removesuffix(f".{domain}")
            if short != name and short in self.names:
                return self.names[short]
        return None


def refusal(query: bytes, code: dns.rcode.Rcode) -> bytes:
    """Reply with nothing but a code; ``query`` has at least a header."""
    number, flags, *_ = _HEADER.unpack_from(query)
    kept = flags & (
        0x7800 | dns.flags.RD
    )  # "OPCODE ... is set by the originator of a query and copied" (RFC 1035, 4.1.1)
    return _HEADER.pack(number, dns.flags.QR | kept | dns.flags.RA | code, 0, 0, 0, 0)


def failure(asked: Elsewhere, number: bytes) -> bytes:
    """Reply to what nobody has answered; ``number`` is the two bytes of its id."""
    return number + refusal(asked.query, dns.rcode.SERVFAIL)[2:4] + b"\0\1" + bytes(6) + asked.question


def truncated(reply: bytes, question: bytes) -> bytes:
    """What is left of a reply that is too long for a datagram: that it is, so that it is asked for by TCP."""
    flags = reply[2] | (dns.flags.TC >> 8)
    return reply[:2] + bytes((flags, reply[3])) + b"\0\1" + bytes(6) + question


def _written(message: dns.message.Message, code: dns.rcode.Rcode, addresses: tuple[str, ...] = ()) -> bytes:
    """Reply ourselves. "Negative responses without SOA records SHOULD NOT be cached" (RFC 2308, section 5): none is."""
    reply = dns.message.make_response(message, recursion_available=True, our_payload=LARGEST_DATAGRAM)
    reply.flags |= dns.flags.AA
    reply.set_rcode(code)
    question = message.question[0]
    is_v6 = _FAMILIES.get(question.rdtype)
    wanted = [one for one in addresses if (":" in one) is is_v6]
    if wanted:
        reply.answer.append(dns.rrset.from_text_list(question.name, TTL, "IN", question.rdtype, wanted))
    return reply.to_wire()


def _elsewhere(message: dns.message.Message) -> Elsewhere:
    """EDNS options are between two neighbours, and we are one (RFC 6891, section 6.1.1), so none is passed on."""
    question = message.question[0]
    asking = dns.message.QueryMessage(id=0)
    asking.flags = message.flags & (dns.flags.RD | dns.flags.CD | dns.flags.AD)
    asking.question = [question]
    limit = SMALLEST_LIMIT
    if message.edns == 0:
        limit = max(SMALLEST_LIMIT, min(message.payload, LARGEST_DATAGRAM))
        asking.use_edns(0, message.ednsflags & dns.flags.DO, limit)
    spelled = question.name.to_wire() or b""
    return Elsewhere(
        query=asking.to_wire(),
        question=spelled + struct.pack("!HH", question.rdtype, question.rdclass),
        limit=limit,
    )
