"""The verdicts of the Gateway API's own schema, on cases distilled from its conformance suite."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from masche.model.yaml import is_valid, load

CASES = yaml.load(
    (Path(__file__).parent / "cases" / "gateway-api-validation.yaml").read_text(), Loader=yaml.CSafeLoader
)["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_case_gets_the_verdict_and_the_reason_of_the_standard(case: dict[str, Any]):
    loaded = load(yaml.safe_dump(case["document"]), file="case.yaml")
    assert is_valid(loaded.diagnostics) == case["valid"], loaded.diagnostics
    reasons = " | ".join(found.why for found in loaded.errors)
    assert all(reason in reasons for reason in case.get("reason_contains", []))
