"""Where a gateway listens, as ``--listen`` says it."""

import ipaddress
from typing import NamedTuple


class Listen(NamedTuple):
    """Where a gateway's listeners are bound; ``port`` 0 means each on its own port."""

    address: str
    port: int


class ListenError(ValueError):
    """``--listen`` is neither ``IP`` nor ``IP:PORT``."""


def parse_listen(text: str) -> Listen:
    """Read ``IP``, ``IP:PORT``, ``[IPv6]`` or ``[IPv6]:PORT``. Raises ListenError."""
    address, port = text, ""
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    try:
        number = int(port) if port else 0
        found = ipaddress.ip_address(address)
    except ValueError:
        raise ListenError(f"--listen {text!r} is neither an IP address nor IP:PORT") from None
    if not 0 <= number < 65536:
        raise ListenError(f"--listen {text!r}: a port is at most 65535")
    return Listen(str(found), number)
