"""What those speak of who verify by a trust bundle, without what it takes to read one."""

from typing import Final

CONTROL_PLANE_NAME: Final = "control-plane.masche.internal"
"""A DNS name in every control plane's certificate and in no other: what agents verify under the pinned root."""


class BundleError(ValueError):
    """These are not the roots of a trust domain; the text says why."""
