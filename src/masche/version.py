"""Which release this is, from the metadata of the installed package; ``0+checkout`` when it is not installed.

The name of the metadata's folder says it. ``importlib.metadata`` is asked only where there is no such folder (a zip
file, a freezer's importer): it loads archives, tables and mails, half a megabyte in a process with the library.
"""

import sys
from contextlib import suppress
from pathlib import Path

_BEGIN, _END = "masche-", ".dist-info"


def _installed() -> str:
    for folder in sys.path:
        with suppress(OSError):
            for found in Path(folder).glob(f"{_BEGIN}*{_END}"):
                return found.name[len(_BEGIN) : -len(_END)]
    return _asked()


def _asked() -> str:
    from importlib.metadata import PackageNotFoundError, version  # see above

    try:
        return version("masche")
    except PackageNotFoundError:
        return "0+checkout"


VERSION = _installed()
