"""What every resource has: a kind, a name, labels, and a shape that nobody can change after it was read.

Resources are pydantic models: attributes in snake_case, camelCase on paper, lists as tuples, maps as FrozenMaps, so
that a resource hashes and compares by its content.
"""

from typing import Annotated, Any, ClassVar, NoReturn, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from masche.model.refs import Kind, Name, Ref
from masche.model.resources.scalars import AnnotationKey, AnyNamespace, DnsName, LabelKey, LabelValue

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(dict[K, V]):
    """A dict that refuses every change and therefore hashes; it serialises like any dict."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a FrozenMap cannot be changed; make a new one")

    __setitem__ = __delitem__ = __ior__ = _refuse  # pyright: ignore[reportAssignmentType] # they all refuse alike
    clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType] # they all refuse alike

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] # a dict that never changes may hash
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[Self], tuple[dict[K, V]]]:
        return type(self), (dict(self),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        key, value = source.__args__
        return core_schema.no_info_after_validator_function(
            cls, core_schema.dict_schema(handler.generate_schema(key), handler.generate_schema(value))
        )


def camel(name: str) -> str:
    """Spell a field as it stands on paper: ``backend_refs`` is ``backendRefs``, ``from_`` is ``from``."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


class Part(BaseModel):
    """A piece of a resource: frozen, closed to unknown fields, camelCase on paper, snake_case in Python."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )


def _only_text(instant: object) -> object:
    if instant is None or not isinstance(instant, int | float):
        return instant
    raise PydanticCustomError("timestamp", "must be an RFC 3339 timestamp in quotation marks")


Labels = FrozenMap[LabelKey, LabelValue]
Timestamp = Annotated[AwareDatetime, BeforeValidator(_only_text)]


class ObjectMeta(Part):
    """How a resource is called and labelled. ``namespace`` is ``""`` for cluster-scoped kinds."""

    name: DnsName
    namespace: AnyNamespace = ""
    labels: Labels = FrozenMap()
    annotations: FrozenMap[AnnotationKey, str] = FrozenMap()
    creation_timestamp: Timestamp | None = None


class Manifest(Part):
    """A resource as it is written. Each kind says its ``api_version`` and whether it lives in a namespace."""

    api_version: ClassVar[str]
    kind: ClassVar[Kind]
    is_namespaced: ClassVar[bool] = True

    metadata: ObjectMeta

    @property
    def name(self) -> Name:
        """Its namespaced name; the namespace of a cluster-scoped kind is ``""``."""
        return Name(self.metadata.namespace if self.is_namespaced else "", self.metadata.name)

    @property
    def ref(self) -> Ref:
        """What points at it."""
        return Ref(self.kind, *self.name)

    def __repr__(self) -> str:
        return f"<{self.ref}>"

    __str__ = __repr__
