"""Settings for all tests: Hypothesis draws the same examples everywhere and keeps no files."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "eigenmill",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("eigenmill")
