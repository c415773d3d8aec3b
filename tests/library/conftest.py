"""A town and a session for all tests of the library that need no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from library.town import Town, living
from masche.library.requests import Adapter


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with living(tmp_path) as running:
        yield running


@pytest.fixture
def session(town: Town) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.mount("http://", Adapter(town.facade))
        yield made
