"""What all tests share."""

import atexit
import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings

import xspinn

settings.register_profile(
    "xspinn",
    max_examples=200,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
# For each of thousands of changes to the code: see tests/mutation.py.
settings.register_profile(
    "mutation", settings.get_profile("xspinn"), max_examples=20, database=None, derandomize=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "xspinn"))

# Choices of earlier runs, or of the user, must not decide what tests see; nor the other way round.
os.environ["XSPINN_CACHE"] = tempfile.mkdtemp(prefix="xspinn-tests-")
atexit.register(shutil.rmtree, os.environ["XSPINN_CACHE"], ignore_errors=True)


@pytest.fixture
def small_batches():
    """Let blocks follow the chunks of arrays that are small enough for one batch."""
    with xspinn.set_options(batch_voxels=1):
        yield


@pytest.fixture
def log(tmp_path):
    """Where a model writes down which process built it."""
    return tmp_path / "builds"


@pytest.fixture
def client():
    """A client of two worker processes of two threads each, that find the modules of the tests."""
    from distributed import Client
    from helpers.clusters import cluster

    with cluster() as made, Client(made) as client:
        yield client
