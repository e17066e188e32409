"""Hypothesis profiles, chosen by QUOTA_PROFILE: dev while editing, push in CI, nightly for campaigns, smoke for copies.

None is derandomized: each run looks somewhere new. What fails is printed so that it can be run again, and is then kept
as an ``@example``.
"""

import os

from hypothesis import HealthCheck, settings

import figures

# A loaded machine is slow, which is no bug of the code under test.
_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("smoke", max_examples=5, database=None, **_COMMON)
settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile("push", max_examples=300, **_COMMON)
settings.register_profile("nightly", max_examples=20_000, **_COMMON)
settings.load_profile(os.environ.get("QUOTA_PROFILE", "dev"))


def pytest_configure(config):
    """Keep what is collected for the page of figures, and hold each test to what the page tells of it."""
    config.pluginmanager.register(figures.Collected(), "figures")
