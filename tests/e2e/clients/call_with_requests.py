"""requests."""

import requests
from ways import BASE, CHUNKS, DOWNLOAD, UPLOAD, say

with requests.Session() as session:
    get = session.get(f"{BASE}/a/b", params={"c": "d"}, timeout=20)
    upload = session.post(f"{BASE}/", data=UPLOAD, timeout=20)
    chunked = session.put(f"{BASE}/", data=iter(CHUNKS), timeout=20)
    download = session.get(f"{BASE}/bytes/{DOWNLOAD}", timeout=20)
    adapter = session.get_adapter(BASE)
    managers = [adapter.poolmanager, *adapter.proxy_manager.values()]
    pools = [manager.pools[key] for manager in managers for key in manager.pools.keys()]  # noqa: SIM118 - no mapping
    say(
        get=get.json(),
        upload=upload.json(),
        chunked=chunked.json(),
        download=len(download.content),
        reused=sum(pool.num_connections for pool in pools) == 1,
    )
