"""What all tests share."""

import atexit
import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile(
    "xspinn",
    max_examples=200,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("xspinn")

# Choices of earlier runs, or of the user, must not decide what tests see; nor the other way round.
os.environ["XSPINN_CACHE"] = tempfile.mkdtemp(prefix="xspinn-tests-")
atexit.register(shutil.rmtree, os.environ["XSPINN_CACHE"], ignore_errors=True)
