"""A real API on a loopback port, in a thread of its own, in front of any Plane: for programs that wait for answers."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from masche.api.app import STATIC_DIR
from masche.api.client import Client
from masche.api.credentials import ApiFolder, Credentials
from masche.api.plane import Plane
from masche.api.server import Listening, serving


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningApi:
    """Where it listens, and the loop in which its Plane lives."""

    data: Path
    listening: Listening
    loop: asyncio.AbstractEventLoop

    @property
    def client(self) -> Client:
        """A client with the right token."""
        return Client.of(self.data)

    def call(self, action: Callable[[], None]) -> None:
        """Do something to the Plane in its own loop."""
        self.loop.call_soon_threadsafe(action)


@contextlib.contextmanager
def running_api(plane: Plane, data: Path, *, static_dir: Path = STATIC_DIR, port: int = 0) -> Generator[RunningApi]:
    """Serve while the block runs, on ``port`` (0 for a free one), with its files in ``data``."""
    started: Future[RunningApi] = Future()
    stop = asyncio.Event()

    async def serve() -> None:
        try:
            credentials = Credentials.load(ApiFolder(data), now=time.time())
            async with serving(
                plane, data=data, credentials=credentials, port=port, static_dir=static_dir
            ) as listening:
                started.set_result(RunningApi(data=data, listening=listening, loop=asyncio.get_running_loop()))
                await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="api")
    thread.start()
    api = started.result(timeout=20)
    try:
        yield api
    finally:
        api.call(stop.set)
        thread.join(timeout=20)
