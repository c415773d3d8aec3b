"""Which release this is, from the metadata of the installed package; ``0+checkout`` when it is not installed."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("masche")
    except PackageNotFoundError:
        return "0+checkout"


VERSION = _installed()
