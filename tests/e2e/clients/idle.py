"""A job that calls nobody: it writes down its environment, so that clients can be started in it, and waits."""

import json
import os
import signal
from pathlib import Path

new = Path(f"{os.environ['SHEET']}.new")
new.write_text(json.dumps(dict(os.environ)))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
new.rename(os.environ["SHEET"])
while True:
    signal.pause()
