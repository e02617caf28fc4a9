"""Every format keeps one contract, and gives the answers of the module it was made from."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from networks import trained
from zoo import HEAVY, LIGHT, SHAPE, keras_file, safetensors

from xspinn import as_model
from xspinn.testing import check_model

TESTS = str(Path(__file__).parent)

ALL = [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]

# The libraries warn about themselves and about each other while models are made and loaded.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@quiet
@pytest.mark.parametrize("name", ALL)
def test_it_keeps_the_contract(name, tmp_path):
    model = (LIGHT | HEAVY)[name](tmp_path)
    check_model(model, SHAPE, like=trained())


@quiet
@pytest.mark.parametrize("name", ALL)
def test_it_predicts_like_the_module(name, tmp_path):
    """Over an array whose sizes no patch divides, through dask and not."""
    image = xr.DataArray(
        np.random.default_rng(0).standard_normal((41, 38), dtype="float32"), dims=("y", "x")
    )
    options = {"patch": {"y": 16, "x": 16}, "overlap": 4}
    wanted = image.spinn.predict(trained(), **options)
    model = (LIGHT | HEAVY)[name](tmp_path)
    got = image.chunk(20).spinn.predict(model, **options)
    if isinstance(got, xr.Dataset):
        got = next(iter(got.values()))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_half_precision_weights_stay_half(tmp_path):
    from safetensors.torch import save_file

    save_file(trained().half().state_dict(), tmp_path / "half.safetensors")
    handle = as_model(tmp_path / "half.safetensors", factory="networks:Facies")
    built = handle.load(torch.device("cpu"))
    assert built(torch.zeros(SHAPE)).dtype == torch.float16


def test_a_model_may_want_channels_last():
    network = trained()

    def last(batch):
        assert batch.shape[1:] == (16, 16, 1)
        with torch.no_grad():
            return network(torch.from_numpy(batch).movedim(-1, 1)).movedim(1, -1).numpy()

    check_model(as_model(last, channels_last=True), SHAPE, like=network)


def test_channels_last_is_part_of_what_a_model_is(tmp_path):
    path = safetensors(tmp_path)
    keys = {
        as_model(path, factory="networks:Facies", channels_last=last).key for last in (True, False)
    }
    assert len(keys) == 2


@pytest.mark.slow
@quiet
def test_keras_on_tensorflow(tmp_path):
    """In a process of its own, since Keras has one backend in each."""
    pytest.importorskip("tensorflow", reason="tensorflow-cpu has wheels for Linux on x86_64 only")
    path = keras_file(tmp_path)
    code = f"""
        import sys
        sys.path.insert(0, {TESTS!r})
        from networks import trained
        from xspinn import as_model
        from xspinn.testing import check_model
        handle = as_model({str(path)!r})
        assert handle.backend == "tensorflow"
        check_model(handle, {SHAPE}, like=trained())
        check_model({str(path)!r}, {SHAPE}, like=trained())
        print("passed", "torch" if handle.channels_last is False else "channels last")
    """
    assert python(code, KERAS_BACKEND="tensorflow").strip() == "passed channels last"


# -- formats of other packages -----------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path):
    """Install a package that registers a format, as pip would lay it out."""
    folder = tmp_path / "site"
    info = folder / "kernels-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[xspinn.models]\nkernel = kernels:KernelModel\nbroken = no_such_package:Broken\n"
    )
    (folder / "kernels.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            import torch
            from xspinn.models.files import FileModel

            class KernelModel(FileModel):
                suffixes = (".kernel",)

                def inspect(self, loaded):
                    self.weight = np.frombuffer(self.content.open(), "float32").copy()

                def build(self, device):
                    weight = torch.from_numpy(self.weight).to(device)
                    return lambda batch: torch.einsum("bcyx,oc->boyx", batch, weight.reshape(2, 1))

                def feed_dtype(self, dtype):
                    return np.dtype("float32")
            """
        )
    )
    np.array([2, 3], "float32").tofile(tmp_path / "two.kernel")
    return folder


def test_other_packages_add_formats(plugin, tmp_path):
    code = f"""
        import sys, warnings
        sys.path.insert(0, {str(plugin)!r})
        import torch, xspinn
        from xspinn.testing import check_model
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            handle = xspinn.as_model({str(tmp_path / "two.kernel")!r})
        assert [w.category for w in caught] == [xspinn.SpinnWarning], caught
        assert "'broken' cannot be loaded" in str(caught[0].message), caught[0].message
        check_model(handle, (3, 1, 8, 8), like=lambda b: torch.cat([2 * b, 3 * b], 1))
        print(type(handle).__name__, "passed")
    """
    assert python(code).strip() == "KernelModel passed"


def python(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
