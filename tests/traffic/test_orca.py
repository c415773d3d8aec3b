"""What an instance says of its load."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.traffic import orca
from masche.traffic.orca import LoadReport


@given(st.integers(0, 10**9))
def test_what_is_spoken_is_read_again(under_way: int):
    name, value = orca.spoken(under_way)
    assert name == "endpoint-load-metrics"
    assert orca.read(value) == LoadReport(under_way=under_way)


@given(st.integers(0, 10**6))
def test_an_application_keeps_its_own_words_and_ours_come_with_them(under_way: int):
    theirs = "TEXT application_utilization=0.5,rps_fractional=100"
    assert orca.read(orca.with_ours(theirs, under_way)) == LoadReport(under_way=under_way, weight=200.0)
    for other in ("JSON {}", f"TEXT {orca.UNDER_WAY}=4", "BIN CgA="):
        assert orca.with_ours(other, under_way) == other


@pytest.mark.parametrize(
    ("value", "report"),
    [
        ("TEXT named_metrics.in_flight=3", LoadReport(3)),
        ("TEXT cpu_utilization=0.3, named_metrics.in_flight=2", LoadReport(2)),
        ("named_metrics.in_flight:7", LoadReport(7)),
        ("TEXT cpu_utilization=0.5,rps_fractional=50", LoadReport(weight=100.0)),
        ("TEXT application_utilization=0.25,cpu_utilization=0.5,rps_fractional=50", LoadReport(weight=200.0)),
        ("TEXT application_utilization=0.5,rps_fractional=100,eps=50", LoadReport(weight=100.0)),
        ('JSON {"cpu_utilization": 0.5, "rps_fractional": 50}', LoadReport(weight=100.0)),
        ('JSON {"applicationUtilization": 0.5, "rpsFractional": 50}', LoadReport(weight=100.0)),
        ('JSON {"named_metrics": {"in_flight": 4}, "mem_utilization": 0.4}', LoadReport(4)),
    ],
)
def test_the_forms_that_are_in_use_are_read(value: str, report: LoadReport):
    assert orca.read(value) == report


@pytest.mark.parametrize(
    "value",
    [
        "", "TEXT ", "JSON ", "JSON []", "JSON {", "BIN CgA=", "TEXT named_metrics.in_flight=-1", "TEXT =3",
        "TEXT named_metrics.in_flight=nan", "TEXT named_metrics.in_flight=inf", "TEXT cpu_utilization=0.4",
        "TEXT cpu_utilization=0,rps_fractional=9", 'JSON {"named_metrics": {"in_flight": [1]}}',
        'JSON {"named_metrics": 3}', "TEXT named_metrics.in_flight=3" + " " * 5000, "JSON " + "[" * 4000,
        f"JSON {json.dumps({'cpu_utilization': 10**400})}",
    ],
)  # fmt: skip
def test_what_says_nothing_of_use_says_nothing(value: str):
    assert orca.read(value) is None


@given(st.text() | st.text().map("TEXT {}".format) | st.text().map("JSON {}".format))
def test_whatever_comes_is_read_or_not_and_fails_nobody(value: str):
    report = orca.read(value)
    assert report is None or report.under_way >= 0 or report.weight > 0


@given(
    st.floats(0, allow_infinity=False), st.floats(0, allow_infinity=False), st.floats(0, allow_infinity=False)
)  # fmt: skip
def test_a_weight_is_never_out_of_bounds(utilization: float, rate: float, errors: float):
    report = orca.read(f"TEXT cpu_utilization={utilization!r},rps_fractional={rate!r},eps={errors!r}")
    assert report is None or 1e-9 <= report.weight <= 1e12


def test_an_answer_tells_by_its_headers():
    assert orca.told({"content-length": "0"}) is None
    assert orca.told({orca.REPORT: "TEXT named_metrics.in_flight=3"}) == LoadReport(3)


def test_only_who_asks_for_our_form_is_told():
    assert orca.asks((("accept", "*/*"), orca.ASK))
    assert not orca.asks((("accept", "*/*"), ("endpoint-load-metrics-format", "json")))
