"""Resources to JSON and back, for stores and wires that trust what they hold.

Reading tolerates fields that a newer version added. Fields that have their default value are not written, so equal
resources are equal bytes.
"""

from typing import Any, cast

import msgspec
from pydantic import ValidationError

from masche.model.kinds import MANIFESTS
from masche.model.mesh import Resource


class _Head(msgspec.Struct):
    kind: str


_HEAD = msgspec.json.Decoder(_Head)


def to_json(resource: Resource) -> bytes:
    """Write the resource, a Secret's data included."""
    body = resource.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True)
    return f'{{"apiVersion":"{resource.api_version}","kind":"{resource.kind}",{body[1:]}'.encode()


def from_json(data: bytes) -> Resource:
    """Read what ``to_json`` wrote. Raises ValueError when it is no resource of a known kind."""
    try:
        manifest = MANIFESTS[_HEAD.decode(data).kind]
        return cast("Resource", manifest.model_validate_json(data, by_alias=True, by_name=False, extra="ignore"))
    except KeyError as unknown:
        raise ValueError(f"there is no kind {unknown}") from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"this is no resource: {error}") from None
    except ValidationError as error:
        raise ValueError(f"this is no {error.title}: {error.error_count()} fields are wrong") from None


def to_data(resource: Resource) -> dict[str, Any]:
    """The resource as plain data, as it stands on paper."""
    body = resource.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return {"apiVersion": resource.api_version, "kind": str(resource.kind), **body}
