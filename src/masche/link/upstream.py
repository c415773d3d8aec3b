"""One xDS stream to a control plane, as those who pass it on see it: when it ends, it ends in one way.

Invariant: whatever ended a stream, a task that was asked to end still ends as one that was cancelled.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

Upstream = grpc.aio.StreamStreamCall[Any, Any]
"""One stream to a control plane; requests and responses are bytes."""


class OverError(Exception):
    """This stream has ended for a good reason."""


@contextmanager
def ending() -> Generator[None]:
    """The end of an upstream call, in any form in which grpc.aio shows it: a closed channel cancels its calls."""
    try:
        yield
    except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise OverError from error
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        raise OverError from error
