"""httpx."""

import httpx
from ways import BASE, CHUNKS, DOWNLOAD, UPLOAD, say

connects = []


def trace(event, _info):
    if event == "connection.connect_tcp.complete":
        connects.append(event)


with httpx.Client(timeout=20) as client:
    more = {"extensions": {"trace": trace}}
    get = client.get(f"{BASE}/a/b", params={"c": "d"}, **more)
    upload = client.post(f"{BASE}/", content=UPLOAD, **more)
    chunked = client.put(f"{BASE}/", content=iter(CHUNKS), **more)
    download = client.get(f"{BASE}/bytes/{DOWNLOAD}", **more)
    say(
        get=get.json(),
        upload=upload.json(),
        chunked=chunked.json(),
        download=len(download.content),
        reused=len(connects) == 1,
    )
