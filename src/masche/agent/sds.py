"""Secrets for one Envoy stream: what it asked for, what it holds, what to send it now.

Invariant: a secret that is not there is withheld, and not answered as removed, because a listener whose secret was
removed opens and resets every connection, while one that waits stays closed. Removed is what no listener uses any more:
the secret of a workload that has left.
"""

from collections.abc import Callable, Mapping, Set
from types import MappingProxyType

from masche.model.blob import Blob
from masche.wire.discovery import DeltaRequest, encode_delta_response
from masche.wire.types import SECRET


class Shelf:
    """The secrets of one proxy, by name. Its repr names them and shows nothing else."""

    def __init__(self) -> None:
        self._blobs: dict[str, Blob] = {}
        self._gone = set[str]()
        self._asked = set[str]()
        self._watchers: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Shelf of {', '.join(sorted(self._blobs)) or 'no secrets'}>"

    @property
    def blobs(self) -> Mapping[str, Blob]:
        """What is there now."""
        return MappingProxyType(self._blobs)

    def put(self, *blobs: Blob) -> None:
        """Add or replace secrets, all at once."""
        self._blobs.update((blob.name, blob) for blob in blobs)
        self._gone.difference_update(blob.name for blob in blobs)
        self._tell()

    def withdraw(self, *names: str) -> None:
        """Stop giving secrets out; who holds them keeps them."""
        for name in names:
            self._blobs.pop(name, None)
        self._tell()

    @property
    def known(self) -> frozenset[str]:
        """The names of what is there or was asked for, and is not gone."""
        return frozenset(self._blobs.keys() | self._asked) - self._gone

    def asked(self, *names: str) -> None:
        """Take note of what an Envoy asks for, or has from an agent before us."""
        self._asked.update(names)

    @property
    def gone(self) -> Set[str]:
        """What nobody uses any more."""
        return self._gone

    def remove(self, *names: str) -> None:
        """Have these forgotten by who holds them: nobody uses them any more. One may be put there again."""
        for name in names:
            self._blobs.pop(name, None)
        self._gone.update(names)
        self._tell()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call ``watcher`` after every change, until the returned function is called."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _tell(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()


class Sds:
    """One stream's subscription to the secrets of a Shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._wanted: set[str] = set()
        self._held: dict[str, str] = {}
        self._nonce = 0
        self.rejection = ""

    def read(self, request: DeltaRequest) -> None:
        """Take note of a request. A secret that Envoy rejects is not sent again until it changes."""
        if not self._nonce:
            self._held.update(request.initial_versions)
        self._wanted.update(request.subscribe)
        self._shelf.asked(*request.subscribe)
        for name in request.subscribe:
            if name not in request.initial_versions:
                self._held.pop(name, None)  # who subscribes anew must be answered, even with what it was given before
        for name in request.unsubscribe:
            self._wanted.discard(name)
            self._held.pop(name, None)
        if request.nonce:
            self.rejection = request.error_message or ("rejected" if request.error_code else "")

    def answer(self) -> bytes | None:
        """The response that is due now, or None."""
        blobs = self._shelf.blobs
        due = [
            blobs[name] for name in sorted(self._wanted & blobs.keys()) if self._held.get(name) != blobs[name].version
        ]
        removed = sorted(self._shelf.gone & self._held.keys())
        if not (due or removed):
            return None
        for name in removed:
            del self._held[name]
        self._held.update((blob.name, blob.version) for blob in due)
        self._nonce += 1
        return encode_delta_response(SECRET, f"secret-{self._nonce}", [blob.frame for blob in due], removed)
