"""What all tests share."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "xspinn",
    max_examples=200,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("xspinn")
