"""Encode the Gateway API's HTTPCORSFilter for Envoy's CORS filter.

Invariant: an origin is compared whole; ``*`` in it stands for any number of characters and nothing else is special.
"""

from masche.compiler.envoy.parts import escaped, regex
from masche.model.view import Cors
from masche.wire.messages import Body, Json, any_of

FILTER = "envoy.filters.http.cors"
_POLICY = "envoy.extensions.filters.http.cors.v3.CorsPolicy"


def cors(source: Cors) -> Body:
    """Return what stands in the ``typed_per_filter_config`` of a route."""
    policy: dict[str, Json] = {
        "allow_origin_string_match": [_origin(origin) for origin in source.allow_origins],
        "allow_methods": ", ".join(source.allow_methods),
        "allow_headers": ", ".join(source.allow_headers),
        "expose_headers": ", ".join(source.expose_headers),
        "allow_credentials": source.allow_credentials,
        "max_age": str(source.max_age_seconds),
        "forward_not_matching_preflights": False,
    }
    return {FILTER: any_of(_POLICY, policy)}


def _origin(origin: str) -> Body:
    if "*" not in origin:
        return {"exact": origin}
    return {"safe_regex": regex(".*".join(escaped(part) for part in origin.split("*")))}
