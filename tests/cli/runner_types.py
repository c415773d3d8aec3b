"""The type of the ``masche`` fixture: words in, result out."""

from collections.abc import Callable

from click.testing import Result

Masche = Callable[..., Result]
