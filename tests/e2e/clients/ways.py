"""What every client of these tests does: the address that its way gives, the same bodies, one line of JSON at the end.

A way is ``url`` (the variable of the service), ``proxy`` (the service's name, through HTTP_PROXY) or ``connect`` (the
same through a tunnel). Clients say ``get``, ``upload`` and ``chunked`` (what the server saw), ``download`` (bytes) and
``reused`` (whether the second request took the connection of the first).
"""

import json
import os
import sys

WAY = sys.argv[1]
BASE = os.environ["WEB_URL"] if WAY == "url" else "http://web"
UPLOAD = b"m" * 1_000_000
CHUNKS = [b"c" * 1_000] * 300
DOWNLOAD = 1_000_000


def say(**told):
    json.dump({"way": WAY, **told}, sys.stdout)
