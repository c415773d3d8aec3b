"""curl."""

import json
import subprocess

from ways import BASE, CHUNKS, DOWNLOAD, UPLOAD, WAY, say


def curl(*words, body=None):
    tunnel = ["--proxytunnel"] if WAY == "connect" else []
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", *tunnel, *words]
    return subprocess.run(command, input=body, stdout=subprocess.PIPE, check=True).stdout


twice = curl(f"{BASE}/", f"{BASE}/bytes/{DOWNLOAD}", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} ")
say(
    get=json.loads(curl(f"{BASE}/a/b?c=d")),
    upload=json.loads(curl(f"{BASE}/", "--data-binary", "@-", body=UPLOAD)),
    chunked=json.loads(curl(f"{BASE}/", "-T", "-", body=b"".join(CHUNKS))),
    download=len(curl(f"{BASE}/bytes/{DOWNLOAD}")),
    reused=twice.split() == [b"1", b"0"],
)
