"""Numbers as text: the decimals and digits that were asked for, and no sign before a zero."""

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_catalog.decimals import fixed, significant
from star_training.evaluation.metrics import Estimate


@settings(derandomize=True, deadline=None, max_examples=200)
@given(value=st.floats(-1e6, 1e6), digits=st.integers(0, 4))
def test_decimals_are_those_of_the_exact_value(value: float, digits: int):
    exact = Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    assert fixed(value, digits) == str(exact if exact else abs(exact))


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [(-8.7e-19, "", "0"), (-0.0, "+", "0"), (4e-7, "", "0"), (-4.87e-05, "", "-4.87e-05"), (0.123456, "+", "+0.1235")],
)
def test_what_is_noise_is_zero(value: float, sign: str, text: str):
    assert significant(value, sign=sign) == text


def test_an_interval_follows_its_value():
    found = Estimate(-0.0004, -0.0016, 0.0004)
    assert found.text(lambda value: fixed(value, 3)) == "0.000 [-0.002, 0.000]"
    assert found.text(lambda value: fixed(value, 3, "+")) == "0.000 [-0.002, 0.000]"
    assert Estimate(0.5).text(significant) == "0.5"
