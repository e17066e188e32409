"""Hypothesis profiles: dev by default, push in CI, nightly for long campaigns (QUOTA_PROFILE)."""

import os

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile("push", max_examples=150, print_blob=True, **_COMMON)
settings.register_profile("nightly", max_examples=5_000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("QUOTA_PROFILE", "dev"))
