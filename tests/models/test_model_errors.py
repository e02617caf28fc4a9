"""Files that are broken, hostile, or not what they seem: an error before any block runs."""

import functools
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from helpers import zoo
from helpers.elsewhere import python
from helpers.networks import Facies, trained
from torch import nn

from xspinn import as_model
from xspinn.errors import ModelError

PATCH = {"y": 16, "x": 16}

# The libraries warn about themselves while models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def image():
    return xr.DataArray(np.ones((40, 40), "float32"), dims=("y", "x")).chunk(20)


# -- broken files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["facies.pt2", "facies.pt", "facies.ts", "facies.pth"])
def test_a_file_that_was_cut_off(tmp_path, name):
    make = {".pt2": zoo.pt2, ".pth": zoo.pth}.get(Path(name).suffix)
    path = make(tmp_path) if make else zoo.torchscript(tmp_path, Path(name).suffix)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    factory = {} if name not in ("facies.pth", "facies.pt") else {"factory": Facies}
    with pytest.raises(ModelError, match=rf"{name} cannot be loaded .* cut off"):
        as_model(path, **factory)


@pytest.mark.slow
@pytest.mark.parametrize("make", [zoo.onnx_file, zoo.openvino_file, zoo.keras_file])
def test_a_heavy_file_that_was_cut_off(tmp_path, make):
    path = make(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ModelError, match=rf"(?s){path.name} cannot be (loaded|read) .*cut off"):
        as_model(path)


def test_safetensors_that_were_cut_off(tmp_path):
    path = zoo.safetensors(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"facies.safetensors cannot be loaded .* cut off"):
        as_model(path, factory=Facies)


def test_no_such_file_and_no_such_format(tmp_path):
    with pytest.raises(ModelError, match=r"'none.pt2' cannot be read: .*No such file"):
        as_model("none.pt2")
    path = tmp_path / "model.zip"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"'.zip', which is no format of models; known are .*onnx"):
        as_model(path)
    with pytest.raises(ModelError, match="format='caffe' is not known; the formats here are"):
        as_model(path, format="caffe")


def test_what_is_no_model_by_a_long_way(tmp_path):
    with pytest.raises(ModelError, match="is a folder: give the file in it"):
        as_model(tmp_path)
    with pytest.raises(ModelError, match=r"Facies is a class: give a module, Facies\(...\)"):
        as_model(Facies)
    for name in ("onnx", "keras", "torchscript", "state_dict"):
        with pytest.raises(ModelError, match=f"Facies that was given is no model of .*'{name}'"):
            as_model(trained(), format=name)
    with pytest.raises(ModelError, match="type 'int' is not known"):
        as_model(3)


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    zoo.safetensors(tmp_path)
    assert as_model("~/facies.safetensors", factory=Facies).content.origin.startswith(str(tmp_path))


def test_the_wrong_hash(tmp_path):
    path = zoo.safetensors(tmp_path)
    held = sha256(path.read_bytes()).hexdigest()
    assert as_model(path, factory=Facies, sha256=held).content.key == held
    assert as_model(path, factory=Facies, sha256=f"sha256:{held.upper()}").content.key == held
    with pytest.raises(ModelError, match=f"has sha256 {held}, but {'0' * 64} was expected"):
        as_model(path, factory=Facies, sha256="0" * 64)


def test_a_file_that_changes_after_predict(image, tmp_path):
    path = zoo.safetensors(tmp_path)
    lazy = image.spinn.predict(as_model(path, factory=Facies), patch=PATCH)
    from safetensors.torch import save_file

    save_file({name: t + 1 for name, t in trained().state_dict().items()}, path)
    from xspinn.models import built

    built.release()
    with pytest.raises(ModelError, match=r"but it had .* when predict was called"):
        lazy.compute(scheduler="threads")


# -- weights and factories -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "match"),
    [
        (None, "name what makes it"),
        ("Facies", 'expected a name like "package.module:factory"'),
        ("no_such_package:Facies", "cannot be imported in process .*on every worker too"),
        ("helpers.networks:NoSuchNetwork", "cannot be imported in process"),
        ("helpers.networks:TESTS_OF_NOTHING", "cannot be imported in process"),
        ("helpers.zoo:SHAPE", "cannot be called"),
        (dict, "made a dict, not a torch.nn.Module"),
        (functools.partial(nn.Conv2d, 1, 1, 3), "do not fit the module"),
    ],
)
def test_factories_that_do_not_fit(tmp_path, factory, match):
    with pytest.raises(ModelError, match=match):
        as_model(zoo.safetensors(tmp_path), factory=factory)


def test_a_checkpoint_without_a_state_dict(tmp_path):
    torch.save({"epoch": 3, "weights": {"a": torch.zeros(1)}}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="no state dict: expected tensors by name"):
        as_model(tmp_path / "c.pth", factory=Facies)


def test_a_factory_that_workers_cannot_import(tmp_path, image):
    """It comes before any block runs, and says which worker it was."""
    (tmp_path / "only_here.py").write_text("from helpers.networks import Facies")
    sys.path.insert(0, str(tmp_path))
    try:
        model = as_model(zoo.safetensors(tmp_path), factory="only_here:Facies")
        lazy = image.spinn.predict(model, patch=PATCH)
        with (
            LocalCluster(n_workers=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            client.run(forget, str(tmp_path))
            with pytest.raises(ModelError, match=r"'only_here:Facies' .*in worker tcp://.*Install"):
                lazy.compute()
            ran = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
            assert "spinn-run" in ran
            assert client.run_on_scheduler(finished_blocks) == 0
    finally:
        sys.path.remove(str(tmp_path))


def forget(path):
    import sys

    sys.path[:] = [entry for entry in sys.path if entry != path]


def finished_blocks(dask_scheduler):
    return dask_scheduler.task_prefixes["spinn-run"].state_counts["memory"]


# -- shapes ----------------------------------------------------------------------------------


def test_an_exported_program_for_another_patch(image, tmp_path):
    with pytest.raises(ModelError, match=r"16 voxels of dim 'y', .*Give patch={'y': 16, 'x': 16}"):
        image.spinn.predict(zoo.pt2(tmp_path), patch={"y": 20, "x": 20})


@pytest.mark.slow
def test_onnx_for_another_patch(image, tmp_path):
    path = zoo.onnx_file(tmp_path, free=False)
    with pytest.raises(ModelError, match=r"16 voxels of dim 'y', .*Give patch={'y': 16, 'x': 16}"):
        image.spinn.predict(path, patch={"y": 20, "x": 20})
    with pytest.raises(ModelError, match=r"takes 4 axes, \(2, 1, 16, 16\), but a patch has 3"):
        image.spinn.predict(path, patch={"x": 16})
    with pytest.raises(ModelError, match="takes 1 channels, but it is fed with 2"):
        image.expand_dims(c=2).spinn.predict(path, patch=PATCH, channel="c")


def test_a_program_of_two_inputs():
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    program = torch.export.export(Two(), (zoo.example(), zoo.example()))
    with pytest.raises(ModelError, match=r"takes 2 inputs \(a, b\); it must take one tensor"):
        as_model(program)


# -- options that do not belong -----------------------------------------------------------------


def test_options_that_mean_nothing_here(tmp_path):
    path = zoo.safetensors(tmp_path)
    with pytest.raises(ModelError, match="factory='a:b' was given, but ModuleModel has no use"):
        as_model(trained(), factory="a:b")
    with pytest.raises(ModelError, match="sha256='00' was given, but only files have one"):
        as_model(trained(), sha256="00")
    with pytest.raises(ModelError, match="it is a model handle already"):
        as_model(as_model(path, factory=Facies), factory=Facies)


@pytest.mark.parametrize(
    ("package", "name"),
    [("onnxruntime", "m.onnx"), ("onnx", "m.onnx"), ("openvino", "m.xml"), ("keras", "m.keras")],
)
def test_packages_that_are_not_installed(tmp_path, package, name):
    """In a process of its own, where the import fails."""
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "m.bin").write_bytes(b"")
    done = python(
        f"""
        import sys
        sys.modules[{package!r}] = None
        import xspinn
        try:
            xspinn.as_model({str(tmp_path / name)!r})
        except xspinn.ModelError as error:
            print(error)
        """
    )
    assert f"needs the package {package}, which is not installed in process" in done
    assert f"pip install 'xspinn[{name.partition('.')[2].replace('xml', 'openvino')}]'" in done
