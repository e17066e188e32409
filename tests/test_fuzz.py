"""The targets of ``make fuzz``: each holds of its seeds and of what Hypothesis finds, and sees a planted error."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fuzz


@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_a_target_holds(name):
    """Of its seeds, of pieces of them, and of whatever bytes."""
    seeds = [seed.encode() for seed in fuzz.SEEDS[name]]
    pieces = st.sampled_from(seeds).flatmap(
        lambda seed: st.tuples(st.integers(0, len(seed)), st.binary(max_size=9)).map(
            lambda cut: seed[: cut[0]] + cut[1] + seed[cut[0] + 1 :]
        )
    )

    @given(st.sampled_from(seeds) | pieces | st.binary(max_size=60))
    def holds(data):
        fuzz.PARSERS[name](data)

    holds()


@pytest.mark.parametrize(("name", "place"), [("limits", "quota.limit_text._digits"), ("period", "quota.period._load"), ("csv", "quota.aws.keys_csv.digest"),
                                             ("control", "quota.aws.control.plans.read_plan"), ("form", "quota.web.usage.page.find_zone"),
                                             ("signature", "quota.aws.control.app.check_age")])  # fmt: skip
def test_a_planted_error_is_seen(name, place):
    """One of Python's own, from within a parser, is not taken for a refusal."""
    with mock.patch(place, side_effect=ZeroDivisionError), pytest.raises((ZeroDivisionError, AssertionError)):
        for seed in fuzz.SEEDS[name]:
            fuzz.PARSERS[name](seed.encode())
