"""Exported programs that want to run code, or operators that do more than compute."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import programs, zoo
from helpers.archives import Thief, program, read, replace

from xspinn import as_model
from xspinn.errors import ModelError
from xspinn.models.formats.operators import refused

# The libraries warn about themselves while models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def loot(tmp_path):
    return tmp_path / "loot"


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


# -- operators -------------------------------------------------------------------------------


class Ones(torch.nn.Module):
    """Two operators without weights, whose names an attacker changes."""

    def forward(self, x):
        return x + torch.ones(64).abs_().sum()


def test_an_exported_program_that_would_write_to_files(tmp_path):
    """``aten::from_file`` maps a file, and whatever is done in place is written to it."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 64)
    free = ({0: torch.export.Dim("batch")},)
    path = tmp_path / "facies.pt2"
    torch.export.save(torch.export.export(Ones(), (zoo.example(),), dynamic_shapes=free), path)
    text = program(path)
    node = text["graph_module"]["graph"]["nodes"][0]
    assert node["target"] == "torch.ops.aten.ones.default"
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [
        {"name": "filename", "arg": {"as_string": str(victim)}, "kind": 1},
        {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
        {"name": "size", "arg": {"as_int": 64}, "kind": 1},
    ]
    replace(path, "models/model.json", json.dumps(text).encode())
    image = xr.DataArray(np.ones((16, 16), "float32"), dims=("y", "x"))
    with pytest.raises(ModelError, match=r"uses 'torch.ops.aten.from_file.default', .*allow_pick"):
        image.spinn.predict(path, patch={"y": 16, "x": 16})
    assert victim.read_bytes() == b"precious" * 64


@pytest.mark.parametrize(
    ("operator", "why"),
    [
        ("aten.from_file.default", "known to do nothing but compute"),
        ("aten.save.default", "known to do nothing but compute"),
        ("aten._reshape_alias.default", "known to do nothing but compute"),
        ("aten.set_.source_Storage", "known to do nothing but compute"),
        ("aten.resize_.default", "known to do nothing but compute"),
        ("aten.max_pool2d_with_indices_backward.default", "known to do nothing but compute"),
        ("aten.add.out", "writes where it is told to"),
        ("aten.add.str", "more than tensors and numbers"),
        ("aten.len.Dict_str", "known to do nothing but compute"),
        ("aten.add.nothing", "is not known to torch"),
        ("inductor._reinterpret_tensor.default", "another package"),
        ("prims.convert_element_type.default", "another package"),
        ("quantized.linear.default", "another package"),
        ("profiler._record_function_enter.default", "another package"),
    ],
)
def test_operators_that_do_more_than_compute(operator, why):
    assert why in refused(*operator.split("."))


@pytest.mark.parametrize(
    "operator",
    [
        *("add.Tensor", "add_.Scalar", "conv3d.default", "conv2d.padding", "einsum.default"),
        *("div.Tensor_mode", "pad.default", "gelu.default", "scatter_reduce.two", "to.dtype"),
        *("_assert_scalar.default", "_to_copy.default", "rand.generator", "fft_rfft2.default"),
    ],
)
def test_operators_that_compute(operator):
    assert refused("aten", *operator.split(".")) is None


@torch.library.custom_op("xspinn_tests::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@double.register_fake
def _(x):
    return torch.empty_like(x)


class Doubled(torch.nn.Module):
    def forward(self, x):
        return torch.ops.xspinn_tests.double(x)


def test_operators_of_another_package_need_permission(tmp_path):
    exported = torch.export.export(Doubled(), (zoo.example(),))
    path = tmp_path / "doubled.pt2"
    torch.export.save(exported, path)
    with pytest.raises(
        ModelError, match=r"double.default', which is .* another package, .*allow_p"
    ):
        as_model(path)
    for model in (as_model(path, allow_pickle=True), as_model(exported)):
        assert float(model.load(torch.device("cpu"))(torch.ones(2, 1, 16, 16)).max()) == 2


# -- names that torch writes into source code ------------------------------------------------


@pytest.mark.parametrize("what", ["parameter", "argument", "keyword", "field"])
def test_an_exported_program_whose_names_are_code(tmp_path, loot, what):
    path = zoo.pt2(tmp_path)
    evil = f'conv") or open({str(loot)!r}, "w") or getattr(self, "conv'
    text = program(path)
    signature = text["graph_module"]["module_call_graph"][0]["signature"]
    if what == "parameter":
        text = json.loads(json.dumps(text).replace('"conv.weight"', json.dumps(f"{evil}.weight")))
        config = "data/weights/model_weights_config.json"
        raw = read(path, config).replace(b'"conv.weight"', json.dumps(f"{evil}.weight").encode())
        replace(path, config, raw)
    elif what == "argument":
        signature["forward_arg_names"] = [evil]
    elif what == "keyword":
        spec = json.loads(signature["in_spec"])
        spec[1]["children_spec"][1]["context"] = json.dumps([evil])
        signature["in_spec"] = json.dumps(spec)
    else:
        text["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {
            "as_string_to_argument": {evil: {"as_int": 1}}
        }
    replace(path, "models/model.json", json.dumps(text).encode())
    with pytest.raises(ModelError, match=r"model.json: .*which runs code .*allow_pickle"):
        as_model(path).load(torch.device("cpu"))(zoo.example())
    assert not loot.exists()


# -- what must still load --------------------------------------------------------------------

QUICK = ("unet 2-D", "attention", "branches")


@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in programs.PROGRAMS
    ],
)
def test_programs_as_torch_exports_them_are_let_through(tmp_path, name, decomposed):
    network, batch = programs.PROGRAMS[name]().eval(), programs.example(name)
    free = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network, (batch,), dynamic_shapes=free)
    if decomposed:
        exported = exported.run_decompositions()
    torch.export.save(exported, tmp_path / "network.pt2")
    with torch.inference_mode():
        wanted = network(batch)
    got = as_model(tmp_path / "network.pt2").load(torch.device("cpu"))(batch)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
