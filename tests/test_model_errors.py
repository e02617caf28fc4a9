"""Files that are broken, hostile, or not what they seem: an error before any block runs."""

import functools
import http.server
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zoo
from distributed import Client, LocalCluster
from networks import Facies, trained
from torch import nn

from xspinn import as_model
from xspinn.errors import ModelError
from xspinn.models import remote

PATCH = {"y": 16, "x": 16}
TESTS = str(Path(__file__).parent)

# The libraries warn about themselves while models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def image():
    return xr.DataArray(np.ones((40, 40), "float32"), dims=("y", "x")).chunk(20)


@pytest.fixture
def loot(tmp_path):
    return tmp_path / "loot"


class Thief:
    """A pickle that runs code: it makes a file as soon as it is loaded."""

    def __init__(self, loot):
        self.loot = str(loot)

    def __reduce__(self):
        return open, (self.loot, "w")


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
    from xspinn import cache

    cache.release()
    with pytest.raises(ModelError, match=r"but it had .* when predict was called"):
        lazy.compute(scheduler="threads")


# -- files that want to run code -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["thief.pth", "thief.pt", "thief.ckpt"])
def test_a_pickle_that_wants_to_run_code(tmp_path, loot, name):
    torch.save({"weight": torch.zeros(1), "more": Thief(loot)}, tmp_path / name)
    for factory in (Facies, "networks:Facies"):
        with pytest.raises(ModelError, match=r"holds more than tensors.*allow_pickle=True"):
            as_model(tmp_path / name, factory=factory)
    assert not loot.exists()


def test_a_whole_module_needs_permission(image, tmp_path):
    path = zoo.pickled(tmp_path)
    with pytest.raises(ModelError, match="name what makes it"):
        as_model(path)
    with pytest.raises(ModelError, match=r"allow_pickle=True"):
        as_model(path, factory=Facies)
    assert as_model(path, allow_pickle=True).key == as_model(trained()).key


@pytest.mark.parametrize(
    "member",
    ["data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt"],
)
def test_an_exported_program_that_wants_to_run_code(tmp_path, loot, member):
    path = zoo.pt2(tmp_path)
    held = io.BytesIO()
    torch.save(Thief(loot), held)
    replace(path, member, held.getvalue())
    with pytest.raises(ModelError, match=rf"{member}' ?, which runs code .*allow_pickle=True"):
        as_model(path)
    assert not loot.exists()


@pytest.mark.parametrize("kind", ["pickled weight", "custom object"])
def test_an_exported_program_whose_weights_want_to_run_code(tmp_path, loot, kind):
    import json

    path = zoo.pt2(tmp_path)
    folder = "weights" if kind == "pickled weight" else "constants"
    name = "weight_thief" if kind == "pickled weight" else "opaque_obj_thief"
    held = io.BytesIO()
    torch.save(Thief(loot), held)
    config = f"data/{folder}/model_{folder}_config.json"
    entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    text = json.loads(read(path, config))
    text["config"]["thief"] = entry
    replace(path, config, json.dumps(text).encode())
    replace(path, f"data/{folder}/{name}", held.getvalue())
    with pytest.raises(ModelError, match=r"thief', which runs code .*allow_pickle=True"):
        as_model(path)
    assert not loot.exists()


@pytest.mark.parametrize(
    "how",
    ["guards_code", "expr_str", "target", "name", "range_constraints"],
)
def test_an_exported_program_whose_words_want_to_run_code(tmp_path, loot, how):
    """Torch evaluates, runs and imports much of what the description of a program says."""
    import json

    path = zoo.pt2(tmp_path)
    text = json.loads(read(path, "models/model.json"))
    evil = f"__import__('os').system('touch {loot}')"
    graph = text["graph_module"]["graph"]
    if how == "guards_code":
        text["guards_code"] = [f"{evil} == 0"]
    elif how == "expr_str":
        graph["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = evil
    elif how == "target":
        graph["nodes"][0]["target"] = "torch.os.system"
    elif how == "name":
        graph["nodes"][0]["name"] = f"x; {evil}"
    else:
        text["range_constraints"][evil] = {"min_val": 0, "max_val": None}
    replace(path, "models/model.json", json.dumps(text).encode())
    with pytest.raises(ModelError, match=r"model.json: .*which runs code .*allow_pickle=True"):
        as_model(path)
    assert not loot.exists()


def test_an_archive_that_torch_reads_differently(tmp_path, loot):
    """Its zip reader takes names of another case for the same."""
    path = zoo.pt2(tmp_path)
    held = io.BytesIO()
    torch.save(Thief(loot), held)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("facies/data/sample_inputs/MODEL.PT", held.getvalue())
    with pytest.raises(ModelError, match="names a member twice"):
        as_model(path)
    assert not loot.exists()


def test_an_exported_program_with_a_compiled_library(tmp_path):
    path = zoo.pt2(tmp_path)
    replace(path, "data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(ModelError, match=r"model.so', which runs code"):
        as_model(path)


@pytest.mark.slow
def test_a_keras_layer_that_wants_to_run_code(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Lambda(lambda x: 2 * x)])
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match=r"holds a Lambda layer.*allow_pickle=True"):
        as_model(tmp_path / "lambda.keras")
    built = as_model(tmp_path / "lambda.keras", allow_pickle=True).load(torch.device("cpu"))
    assert float(built(torch.ones(1, 1, 4, 4)).max()) == 2


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read(path, member):
    return next(raw for name, raw in members(path).items() if name.endswith(member))


def replace(path, member, raw):
    """Put something into an archive, in the place of a member or as a new one."""
    held = members(path)
    root = next(iter(held)).partition("/")[0]
    held[f"{root}/{member}"] = raw
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in held.items():
            archive.writestr(name, content)


# -- weights and factories -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "match"),
    [
        (None, "name what makes it"),
        ("Facies", 'expected a name like "package.module:factory"'),
        ("no_such_package:Facies", "cannot be imported in process .*on every worker too"),
        ("networks:NoSuchNetwork", "cannot be imported in process"),
        ("networks:TESTS_OF_NOTHING", "cannot be imported in process"),
        ("zoo:SHAPE", "cannot be called"),
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
    (tmp_path / "only_here.py").write_text("from networks import Facies")
    sys.path.insert(0, str(tmp_path))
    try:
        model = as_model(zoo.safetensors(tmp_path), factory="only_here:Facies")
        lazy = image.spinn.predict(model, patch=PATCH)
        with (
            LocalCluster(n_workers=1, dashboard_address=None) as cluster,
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


# -- URLs ------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve a folder, with a cache of its own for what is fetched; count requests."""
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path / "cache"))
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{made.server_port}", asked
        made.shutdown()


def test_a_url_is_fetched_once_where_the_hash_is_known(image, server):
    folder, address, asked = server
    path = zoo.pt2(folder)
    held = sha256(path.read_bytes()).hexdigest()
    model = as_model(f"{address}/facies.pt2", sha256=held)
    again = as_model(f"{address}/facies.pt2", sha256=held)
    assert len(asked) == 1
    assert model.key == again.key == as_model(path).key
    wanted = image.spinn.predict(trained(), patch=PATCH)
    np.testing.assert_allclose(image.spinn.predict(model, patch=PATCH), wanted, atol=1e-5)
    assert len(asked) == 1, "a handle of a URL knows its hash"
    as_model(f"{address}/facies.pt2")
    assert len(asked) == 2, "without a hash nobody knows whether the file is still the same"


def test_a_url_that_is_not_there(image, server):
    _, address, _ = server
    with pytest.raises(ModelError, match=r"none.pt2 cannot be fetched: .*404.*Check the address"):
        image.spinn.predict(f"{address}/none.pt2", patch=PATCH)


def test_a_url_with_another_hash(server):
    folder, address, _ = server
    zoo.pt2(folder)
    with pytest.raises(ModelError, match=r"facies.pt2 cannot be fetched: .*[hH]ash"):
        as_model(f"{address}/facies.pt2", sha256="0" * 64)
    assert not list((folder.parent / "cache").rglob("*.pt2"))


def test_a_url_of_another_file_system(image, monkeypatch, tmp_path):
    import fsspec

    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path / "cache"))
    raw = zoo.pt2(tmp_path).read_bytes()
    with fsspec.open("memory://models/facies.pt2", "wb") as file:
        file.write(raw)
    model = as_model("memory://models/facies.pt2", sha256=sha256(raw).hexdigest())
    assert model.content.origin == "memory://models/facies.pt2"
    assert model.key == as_model(tmp_path / "facies.pt2").key
    with pytest.raises(ModelError, match=r"has sha256 .*, but 0000"):
        as_model("memory://models/facies.pt2", sha256="0" * 64)


def test_a_bad_copy_does_not_stick(monkeypatch, tmp_path):
    import fsspec

    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path / "cache"))
    raw = zoo.pt2(tmp_path).read_bytes()
    held = sha256(raw).hexdigest()
    for content in (raw[:100], raw):
        with fsspec.open("memory://models/later.pt2", "wb") as file:
            file.write(content)
        if content is raw:
            as_model("memory://models/later.pt2", sha256=held)
        else:
            with pytest.raises(ModelError, match="has sha256"):
                as_model("memory://models/later.pt2", sha256=held)


def test_secrets_in_urls_are_not_shown(server):
    _, address, _ = server
    with pytest.raises(ModelError) as caught:
        as_model(f"{address}/none.pt2?signature=secret")
    assert "secret" not in str(caught.value)


def test_dois_are_urls():
    assert remote.is_url("doi:10.5281/zenodo.4924875/model.pt2")


def test_windows_drives_are_no_urls():
    assert not remote.is_url(r"C:\models\facies.pt2")
    assert not remote.is_url("c://models/facies.pt2")
    assert remote.is_url("s3://models/facies.pt2")


def test_handles_of_urls_are_small(server):
    folder, address, _ = server
    zoo.pt2(folder)
    assert len(pickle.dumps(as_model(f"{address}/facies.pt2"))) < 1000
