"""Plain scalars mean what the core schema of YAML 1.2 says, and nothing of what older versions said."""

import pytest

from masche.model.resolver import ScalarError, plain, tagged


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("Yes", "Yes"), ("on", "on"), ("010", 10), ("0o10", 8), ("0x1F", 31), ("1_000", "1_000"),
        ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("", None), ("~", None), ("Null", None), ("nULL", "nULL"),
        ("TRUE", True), ("tRUE", "tRUE"), ("+12", 12), ("-.5", -0.5), ("1e3", 1000.0), ("1.", 1.0), (".", "."),
        ("-", "-"), ("0b1", "0b1"), ("=", "="),
    ],
)  # fmt: skip
def test_a_plain_scalar_means_what_yaml_1_2_says(text: str, value: object):
    assert plain(text) == value
    assert type(plain(text)) is type(value)


@pytest.mark.parametrize("text", [".nan", ".inf", "-.Inf", "9" * 20, "-9223372036854775809", "0x" + "f" * 17, "1e400"])
def test_a_number_that_json_could_not_carry_is_refused(text: str):
    with pytest.raises(ScalarError) as refused:
        plain(text)
    assert refused.value.why
    assert refused.value.fix


def test_a_tag_of_the_core_schema_decides_and_others_are_refused():
    assert tagged("80", "tag:yaml.org,2002:str") == "80"
    assert tagged("1", "tag:yaml.org,2002:float") == 1.0
    with pytest.raises(ScalarError, match="not what its tag"):
        tagged("a", "tag:yaml.org,2002:int")
    with pytest.raises(ScalarError, match="is refused"):
        tagged("a", "tag:yaml.org,2002:python/name:os.system")
