"""What the client says of an API that has no room for it."""

from masche.api.client import _refusal  # pyright: ignore[reportPrivateUsage] - the words are chosen there


def test_a_control_plane_without_room_is_not_taken_for_something_else() -> None:
    error = _refusal(503, b"Service Unavailable")
    assert "too many connections" in str(error)


def test_what_is_no_control_plane_is_called_so() -> None:
    assert "not a masche control plane" in str(_refusal(502, b"<html>"))
