"""Files that want to run code: nothing of them runs without permission."""

import io
import json
import os
import zipfile

import pytest
import torch
from helpers import zoo
from helpers.networks import Facies, trained

from xspinn import as_model
from xspinn.errors import ModelError

# The libraries warn about themselves while models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def loot(tmp_path):
    return tmp_path / "loot"


class Thief:
    """A pickle that runs code: it makes a file as soon as it is loaded."""

    def __init__(self, loot):
        self.loot = str(loot)

    def __reduce__(self):
        return open, (self.loot, "w")


@pytest.mark.parametrize("name", ["thief.pth", "thief.pt", "thief.ckpt"])
def test_a_pickle_that_wants_to_run_code(tmp_path, loot, name):
    torch.save({"weight": torch.zeros(1), "more": Thief(loot)}, tmp_path / name)
    for factory in (Facies, "helpers.networks:Facies"):
        with pytest.raises(ModelError, match=r"holds more than tensors.*allow_pickle=True"):
            as_model(tmp_path / name, factory=factory)
    assert not loot.exists()


def test_a_whole_module_needs_permission(tmp_path):
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
    [
        *("guards_code", "expr_str", "text in an expression", "range_constraints"),
        *("target", "operator", "wrap", "name", "out_spec", "other program"),
    ],
)
def test_an_exported_program_whose_words_want_to_run_code(tmp_path, loot, how):
    """Torch evaluates, runs and imports much of what the description of a program says."""
    path = zoo.pt2(tmp_path)
    text = json.loads(read(path, "models/model.json"))
    evil = f"__import__('os').system('touch {loot}')"
    graph = text["graph_module"]["graph"]
    if how == "guards_code":
        text["guards_code"] = [f"{evil} == 0"]
    elif how == "expr_str":
        graph["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = evil
    elif how == "text in an expression":
        graph["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = f'Abs("{evil}")'
    elif how == "target":
        graph["nodes"][0]["target"] = "torch.os.system"
    elif how == "operator":
        graph["nodes"][0]["inputs"][0]["arg"] = {"as_operator": "torch.os.system"}
    elif how == "wrap":
        graph["nodes"][0]["target"] = "torch.ops.higher_order.wrap"
    elif how == "out_spec":
        spec = text["graph_module"]["module_call_graph"][0]["signature"]
        context = {"default_factory_module": "antigravity", "default_factory_name": "fly"}
        kind = {"type": "collections.defaultdict", "context": json.dumps(context)}
        spec["out_spec"] = json.dumps([1, {**kind, "children_spec": []}])
    elif how == "other program":
        text["guards_code"], text["config"] = [f"{evil} == 0"], {}
        replace(path, "models/other_config.json", json.dumps(text).encode())
        text["guards_code"] = []
    elif how == "name":
        graph["nodes"][0]["name"] = f"x; {evil}"
    else:
        text["range_constraints"][evil] = {"min_val": 0, "max_val": None}
    replace(path, "models/model.json", json.dumps(text).encode())
    with pytest.raises(ModelError, match=r"(model|config).json: .*which runs code .*allow_pickle"):
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
