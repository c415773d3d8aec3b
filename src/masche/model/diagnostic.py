"""What we tell the author of a resource: a place, a reason and a cure.

A Diagnostic is a value; whoever finds a problem returns one, and only the edge prints it.
"""

from enum import StrEnum

from masche.model.frozen import frozen
from masche.model.refs import Ref


class Severity(StrEnum):
    """How bad it is. An ERROR refuses the resource; a WARNING carries it out and says so."""

    ERROR = "error"
    WARNING = "warning"


@frozen
class Place:
    """A place in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@frozen
class Diagnostic:
    """One finding.

    ``code`` is a stable kebab-case word, ``where`` names the resource and the field
    (``HTTPRoute/shop/cart spec.rules[0].backendRefs[1]``), ``why`` is the reason and ``fix`` what to change.
    """

    code: str
    where: str
    why: str
    fix: str
    severity: Severity = Severity.ERROR
    place: Place | None = None
    ref: Ref | None = None

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        return f"{place}{self.severity}: {self.where}: {self.why} [{self.code}]\n  fix: {self.fix}"


@frozen
class Status:
    """What became of one resource when the mesh was compiled: conditions as the Gateway API names them.

    ``conditions`` maps a type (``Accepted``, ``ResolvedRefs``, ``Programmed``) to ``(true or false, reason)``.
    """

    ref: Ref
    conditions: tuple[tuple[str, bool, str], ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
