"""What ``httpx`` and ``httpx2`` have in common, for the one adapter that serves both: their classes, errors and bodies.

Invariant: a body that the adapter hands on ends within the whole call's time, and its end is told, once.
"""

from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from importlib import import_module
from math import inf
from typing import Any, Protocol

from masche.library.core.exchange import Ending

_TOO_LONG = "the answer has begun, but was not complete within the timeout of the route"


class Module:
    """One of the two modules, with the core that it stands on."""

    def __init__(self, name: str) -> None:
        self.client: Any = import_module(name)
        self.core: Any = import_module(name.replace("httpx", "httpcore"))
        names = (name for name in dir(self.core) if isinstance(getattr(self.core, name), type))
        found = ((getattr(self.core, name), getattr(self.client, name, None)) for name in names)
        self._errors: dict[type[Exception], type[Exception]] = {
            each: theirs for each, theirs in found if theirs is not None and issubclass(each, Exception)
        }
        self.async_body: Any = type("AsyncBody", (AsyncBody, self.client.AsyncByteStream), {})
        self.sync_body: Any = type("SyncBody", (SyncBody, self.client.SyncByteStream), {})

    def error(self, error: Exception) -> Exception | None:
        """Return the client's own exception for one of its core's; None when it is something else."""
        for each in type(error).__mro__:
            if each in self._errors:
                made = self._errors[each](str(error))
                made.__cause__ = error
                return made
        return None


@lru_cache(maxsize=2)
def module(name: str) -> Module:
    """Return the module of that name."""
    return Module(name)


class Answered(Protocol):
    """An answer whose body is to come; ``limits`` hold for it from when it is begun."""

    limits: dict[str, float | None]


class AsyncAnswered(Answered, Protocol):
    """One that is awaited."""

    async def part(self) -> bytes | None:
        """Return the next part of its body; None at its end. Raises the client's exceptions."""
        ...

    async def aclose(self) -> None:
        """Close it, read or not."""
        ...


class SyncAnswered(Answered, Protocol):
    """One that blocks."""

    core: Any

    def close(self) -> None:
        """Close it, read or not."""
        ...


class Spendable(Protocol):
    """Who is told that a body was begun."""

    is_spent: bool


class AsyncOnce:
    """A body that can be read only once, and says when that has begun."""

    __slots__ = ("_exchange", "_stream")

    def __init__(self, stream: Any, exchange: Spendable) -> None:
        self._stream, self._exchange = stream, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._exchange.is_spent = True
        async for part in self._stream:
            yield part


class SyncOnce:
    """The same for threads."""

    __slots__ = ("_exchange", "_stream")

    def __init__(self, stream: Any, exchange: Spendable) -> None:
        self._stream, self._exchange = stream, exchange

    def __iter__(self) -> Iterator[bytes]:
        self._exchange.is_spent = True
        yield from self._stream


class _Body:
    """The body of an answer. No single read may take longer than what is left for all of it when it begins, and it is
    over when that has passed.
    """

    def __init__(self, module: Module, raw: Answered, ending: Ending) -> None:
        self._module, self._ending = module, ending
        self._received = 0
        if (left := ending.left()) != inf:
            given = raw.limits["read"]
            raw.limits["read"] = left if given is None else min(given, left)

    def _count(self, part: bytes) -> None:
        self._received += len(part)
        if self._ending.left() <= 0:
            raise self._module.client.ReadTimeout(_TOO_LONG)

    def _broken(self, error: Exception) -> Exception:
        """What the user is told of an error within a body."""
        self._ending.over(received=self._received, is_broken=True)
        return self._module.error(error) or error


class AsyncBody(_Body):
    """A body that is awaited."""

    def __init__(self, module: Module, raw: AsyncAnswered, ending: Ending) -> None:
        super().__init__(module, raw, ending)
        self._raw = raw

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (part := await self._raw.part()) is not None:
                self._count(part)
                yield part
        except Exception as error:
            if (told := self._broken(error)) is error:
                raise
            raise told from error

    async def aclose(self) -> None:
        """Close it, read or not."""
        try:
            await self._raw.aclose()
        finally:
            self._ending.over(received=self._received)


class SyncBody(_Body):
    """A body that blocks."""

    def __init__(self, module: Module, raw: SyncAnswered, ending: Ending) -> None:
        super().__init__(module, raw, ending)
        self._raw = raw

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self._raw.core.stream:
                self._count(part)
                yield part
        except Exception as error:
            if (told := self._broken(error)) is error:
                raise
            raise told from error

    def close(self) -> None:
        """Close it, read or not."""
        try:
            self._raw.close()
        finally:
            self._ending.over(received=self._received)
