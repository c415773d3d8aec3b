"""One tier of several: answers by itself, or asks the next tier and answers as that did; and counts what it was asked.

``NEXT`` names the variable with the URL of the next tier. Directly on its port, beside the mesh, ``/-/set?status=&ms=``
changes how it answers, and ``/-/seen`` tells how many requests came, how many at a time at the most, and how many their
callers gave up; both begin the count of ``peak`` anew. With ``FLAPS`` it is well every other second only.
"""

import asyncio
import os
import time

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

NAME, NEXT, FLAPS = os.environ.get("NAME", "tier"), os.environ.get("NEXT"), os.environ.get("FLAPS")
SPENT = "x-envoy-ratelimited"
"""Says of an answer that it was repeated enough; a tier that hands an answer on hands this on, too."""

HEADERS = {"server-name": NAME}
how = {"status": 200, "ms": 0}
seen = {"requests": 0, "active": 0, "peak": 0, "cancelled": 0}
asking = web.AppKey("asking", ClientSession)


async def serve(request: web.Request) -> web.Response:
    """Count, and answer."""
    seen["requests"] += 1
    seen["active"] += 1
    seen["peak"] = max(seen["peak"], seen["active"])
    try:
        return await (_ask(request) if NEXT else _answer())
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise
    finally:
        seen["active"] -= 1


async def _answer() -> web.Response:
    await asyncio.sleep(how["ms"] / 1000)
    status = 503 if FLAPS and int(time.time()) % 2 else how["status"]
    return web.Response(status=status, headers=HEADERS)


async def _ask(request: web.Request) -> web.Response:
    passed = {name: value for name, value in request.headers.items() if name.lower().startswith("x-")}
    try:
        async with request.app[asking].get(os.environ[NEXT] + request.path_qs, headers=passed) as answer:
            told = {name: value for name, value in answer.headers.items() if name.lower() == SPENT}
            return web.Response(status=answer.status, headers=HEADERS | told, body=await answer.read())
    except ClientError as error:
        return web.Response(status=502, headers=HEADERS, text=repr(error))


async def change(request: web.Request) -> web.Response:
    """Answer otherwise from now on."""
    how.update({name: int(value) for name, value in request.query.items()})
    return await tell(request)


async def tell(_request: web.Request) -> web.Response:
    """What was seen so far."""
    told = dict(seen)
    seen["peak"] = seen["active"]
    return web.json_response(told)


async def outgoing(app: web.Application):
    """One pool for all questions to the next tier."""
    app[asking] = ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=10), trust_env=False)
    yield
    await app[asking].close()


app = web.Application()
app.add_routes([web.get("/-/set", change), web.get("/-/seen", tell), web.get("/{path:.*}", serve)])
app.cleanup_ctx.append(outgoing)
web.run_app(
    app, host=os.environ["HOST"], port=int(os.environ["PORT"]), print=None, handler_cancellation=True, access_log=None
)
