"""Two placements of one running mesh: sidecars, called by their explicit proxies, and the library in this process.

Both call the same instances and are given what one compiler makes of one mesh. Every request carries a tag, by which
what arrives is told from what arrived of others, however late.
"""

from dataclasses import replace
from itertools import count
from typing import Self

import httpx

from live.client import Answer
from live.echo import Received
from live.library import facade
from live.mesh import Live, Standing
from masche.library.core.facade import Facade
from masche.library.core.ports import Called, Tried
from masche.library.httpx import Transport
from masche.model.refs import Name
from masche.model.view import Endpoints
from masche.testing.check_placement import Arrived, Asked, Seen
from parity.raw import Line, octets

TAG = "x-asked"
FRESH = "{FRESH_UUID}"
"""Stands in a target for something that is new each time."""
GONE = {502, 503, 504}
"""What a proxy answers when a host outside of the mesh cannot be reached."""

TIMED_OUT = Answer(status=504, headers=(("x-parity", "said by an exception"),))
"""What a client says by an exception of its own, which has no headers."""

Pairs = tuple[tuple[str, str], ...]


class Tags:
    """Numbers requests, and the tries of each."""

    def __init__(self) -> None:
        self._asked: Asked | None = None
        self._beginning = ""

    def next(self, asked: Asked) -> tuple[str, str]:
        """Return what the tags of all tries of this request begin with, and the tag of the next."""
        if self._asked != asked:
            self._asked, self._beginning = asked, f"{next(_numbers)}-"
        return self._beginning, f"{self._beginning}{next(_numbers)}"


_numbers = count()


class Placed:
    """What both have in common: reading what arrived."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self._tags = Tags()

    def ask(self, asked: Asked) -> Seen:
        beginning, tag = self._tags.next(asked)
        answer = _plain(
            self.send(replace(asked, target=asked.target.replace(FRESH, tag)), (*asked.headers, (TAG, tag)))
        )
        got = [
            each
            for each in self.live.backends.log
            if each.values(TAG)[:1] and each.values(TAG)[0].startswith(beginning)
        ]
        arrivals = [_arrived(each) for each in got]
        own = [_arrived(each) for each in got if each.values(TAG)[0] == tag]
        by = next((each for each in own if answer.echo and each.instance == _instance(answer)), None)
        answered = {_instance(answer), *(each.instance for each in arrivals if by and each.instance == by.instance)}
        copies = tuple(each for each in own if each.instance not in answered)
        headers = None if answer.headers == TIMED_OUT.headers else _lower(answer)
        return Seen(status=answer.status, headers=headers, by=by, copies=copies)

    def send(self, asked: Asked, headers: Pairs) -> Answer:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sidecars(Placed):
    """Envoys. Nothing is tidied on the way to them."""

    def __init__(self, live: Live) -> None:
        super().__init__(live)
        self._lines: dict[str, Line] = {}

    def send(self, asked: Asked, headers: Pairs) -> Answer:
        standing = self.live.standing[Name(*asked.caller.split("/"))]
        line = self._lines.setdefault(asked.caller, Line(standing.proxy))
        answer = line.ask(asked.method, f"http://{asked.authority}{asked.target}", asked.authority, headers)
        return Answer(status=0) if answer.status in GONE and _is_outside(standing, asked) else answer

    def close(self) -> None:
        for line in self._lines.values():
            line.close()


def _is_outside(standing: Standing, asked: Asked) -> bool:
    host, _, port = asked.authority.partition(":")
    return standing.way(host, int(port or 0)) is None and not standing.view.is_registry_only


class Libraries(Placed):
    """``masche.library`` behind ``httpx``: each workload that calls is a client in this process."""

    def __init__(self, live: Live, *, moved: tuple[str, str] = ("", "")) -> None:
        """``moved``: addresses that begin with the first are called at the second instead."""
        super().__init__(live)
        self._prefixes = moved
        self._clients: dict[str, Transport] = {}

    def send(self, asked: Asked, headers: Pairs) -> Answer:
        host, _, port = asked.authority.partition(":")
        url = httpx.URL(scheme="http", host=host, port=int(port) if port else None, raw_path=asked.target.encode())
        request = httpx.Request(
            asked.method,
            url,
            headers=[(octets(name), octets(value)) for name, value in (("host", asked.authority), *headers)],
        )
        try:
            response = self._client(asked.caller).handle_request(request)
            body = response.read()
        except httpx.ConnectError:
            return Answer(status=0)
        except httpx.ReadTimeout:  # by its own exception a client says of the mesh's timeouts what a proxy answers
            return TIMED_OUT
        return Answer(status=response.status_code, headers=tuple(response.headers.multi_items()), body=body)

    def _client(self, caller: str) -> Transport:
        if caller not in self._clients:
            self._clients[caller] = Transport(facade=self._facade(caller), outside=Nowhere())
        return self._clients[caller]

    def _facade(self, caller: str) -> Facade:
        return facade(self.live, Name(*caller.split("/")), Silent(), self._moved)

    def _moved(self, found: Endpoints) -> Endpoints:
        before, after = self._prefixes
        return replace(
            found,
            localities=tuple(
                replace(
                    locality,
                    endpoints=tuple(
                        replace(each, address=after + each.address.removeprefix(before))
                        if before and each.is_mtls and each.address.startswith(before)
                        else each
                        for each in locality.endpoints
                    ),
                )
                for locality in found.localities
            ),
        )

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


class Nowhere(httpx.BaseTransport):
    """The world outside of the mesh: nobody is there."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody is there", request=request)


class Silent:
    """A Recorder that keeps nothing."""

    def tried(self, tried: Tried) -> None: ...

    def called(self, called: Called) -> None: ...


def _plain(answer: Answer) -> Answer:
    """Take the length off a message of gRPC."""
    return replace(answer, body=answer.body[5:]) if answer.body[5:6] == b"{" else answer


def _arrived(got: Received) -> Arrived:
    return Arrived(
        instance=f"{got.name}:{got.port}",
        method=got.method,
        target=got.path.replace(got.values(TAG)[0], FRESH),
        authority=got.host,
        headers=tuple(pair for pair in got.headers if pair[0] != TAG),
        peer=got.peer,
    )


def _instance(answer: Answer) -> str:
    return f"{answer.backend}:{answer.echo['port']}" if answer.echo else ""


def _lower(answer: Answer) -> Pairs:
    return tuple((name.lower(), value) for name, value in answer.headers)
