"""One request, or one bare connection, as the mesh sees it when it decides: plain values, nothing to read later.

Invariant: header names are in lower case and pseudo-headers are fields of their own.
"""

from dataclasses import dataclass, replace

from masche.model.frozen import frozen

Headers = tuple[tuple[str, str], ...]
"""Names in lower case with their values, in the order in which they came; a name may come several times."""


@frozen
class Connection:
    """Who called where.

    ``peer`` is the principal proven by mutual TLS without its scheme (``mesh.local/ns/shop/sa/web``), None for a
    caller that proved nothing. ``source_ip`` is the other end of the connection, ``remote_ip`` the client that a
    trusted hop named (empty: the same). ``port`` is the application's port.
    """

    peer: str | None = None
    source_ip: str = ""
    remote_ip: str = ""
    destination_ip: str = ""
    port: int = 0
    sni: str = ""


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Request:
    """One HTTP request. Never changed, and so it may be hashed; not frozen because two are made for every call, and
    freezing would treble what that costs.

    ``target`` is the path with its query (``/a/b?c=d``), ``authority`` the host it names.
    """

    method: str = "GET"
    target: str = "/"
    authority: str = ""
    scheme: str = "http"
    headers: Headers = ()
    connection: Connection = Connection()  # noqa: RUF009 # it never changes

    @property
    def path(self) -> str:
        """The target without query and fragment, which is what every path match looks at."""
        return self.target.partition("#")[0].partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the first question mark, still encoded; empty when there is none."""
        return self.target.partition("#")[0].partition("?")[2]

    def values(self, name: str) -> tuple[str, ...]:
        """All values of a header, each alone, in order. ``host`` is another name of the authority, as in Envoy."""
        if name == "host" or name.startswith(":"):
            value = self._pseudo(name)
            return (value,) if value else ()
        return tuple(value for key, value in self.headers if key == name)

    def _pseudo(self, name: str) -> str:
        match name:
            case "host" | ":authority":
                return self.authority
            case ":method":
                return self.method
            case ":path":
                return self.target
            case ":scheme":
                return self.scheme
            case _:
                return ""

    def to(self, target: str) -> "Request":
        """Return the same request with another path and query."""
        return replace(self, target=target)


Call = Request | Connection


_GRPC = "application/grpc"


def is_grpc(request: Request) -> bool:
    """Say whether a request is gRPC: its content type is ``application/grpc``, or that with a ``+`` and a format."""
    found = next((value for name, value in request.headers if name == "content-type"), "")
    return found.startswith(_GRPC) and found[len(_GRPC) : len(_GRPC) + 1] in {"", "+"}


def characters(value: bytes) -> str:
    """Return the value of a header as text; bytes that are not UTF-8 are kept as lone surrogates (PEP 383).

    What people wrote in a policy or a route is UTF-8 on the wire, so that both compare as bytes would.
    """
    return value.decode("utf-8", "surrogateescape")


def octets(value: str) -> bytes:
    """Return the bytes of a value that ``characters`` gave, or that somebody wrote."""
    return value.encode("utf-8", "surrogateescape")


def lower_names(headers: Headers) -> Headers:
    """Bring header names into the form that a Request wants."""
    return tuple((name.lower(), value) for name, value in headers)
