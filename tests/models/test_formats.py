"""Every format keeps one contract, and gives the answers of the module it was made from."""

import importlib
import platform
import sys
import textwrap

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import TESTS
from helpers.elsewhere import python
from helpers.networks import trained
from helpers.zoo import HEAVY, LIGHT, SHAPE, keras_file, keras_object, safetensors

from xspinn import as_model
from xspinn.errors import ModelError
from xspinn.testing import check_model

ALL = [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]

# The contract starts a Python for each: by default, one of each kind of file and object.
FIRST = {
    *("module", "module, compiled", "exported file", "torchscript .pt", "safetensors"),
    *("state dict", "pickled module", "function"),
}
CONTRACT = [
    pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in LIGHT | HEAVY
]

# The libraries warn about themselves and about each other while models are made and loaded.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@quiet
@pytest.mark.parametrize("name", CONTRACT)
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


class Pooled(torch.nn.Module):
    """Its sizes are halved and doubled, which an exported program guards by expressions."""

    def forward(self, x):
        half = torch.nn.functional.max_pool2d(x, 2)
        return torch.nn.functional.interpolate(half, scale_factor=2) + x


@pytest.mark.slow
def test_an_exported_program_of_any_even_size(tmp_path):
    sizes = {2: 2 * torch.export.Dim("y"), 3: 2 * torch.export.Dim("x")}
    sizes[0] = torch.export.Dim("batch")
    program = torch.export.export(Pooled(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=(sizes,))
    torch.export.save(program, tmp_path / "pooled.pt2")
    for shape in ((3, 1, 16, 16), (2, 1, 12, 20)):
        check_model(tmp_path / "pooled.pt2", shape, like=Pooled())


def test_half_precision_weights_stay_half(tmp_path):
    from safetensors.torch import save_file

    save_file(trained().half().state_dict(), tmp_path / "half.safetensors")
    handle = as_model(tmp_path / "half.safetensors", factory="helpers.networks:Facies")
    built = handle.load(torch.device("cpu"))
    assert built(torch.zeros(SHAPE)).dtype == torch.float16


def test_a_model_may_want_channels_last():
    network = trained()

    def last(batch):
        assert batch.shape[1:] == (16, 16, 1)
        with torch.no_grad():
            return network(torch.from_numpy(batch).movedim(-1, 1)).movedim(1, -1).numpy()

    check_model(as_model(last, channels_last=True), SHAPE, like=network)


class Last(torch.nn.Module):
    """Wants channels last; its result has another size where they are elsewhere."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return torch.cat([self.scale * x, x.mean(-1, keepdim=True)], -1)


def first(batch):
    return torch.cat([2 * batch, batch.mean(1, keepdim=True)], 1)


@pytest.mark.parametrize("kind", ["module", "weights", "exported"])
def test_modules_may_want_channels_last(kind, tmp_path):
    model, options = Last(), {"channels_last": True}
    if kind == "weights":
        torch.save(Last().state_dict(), tmp_path / "last.pth")
        model, options = tmp_path / "last.pth", {**options, "factory": Last}
    if kind == "exported":
        model = torch.export.export(
            Last(), (torch.zeros(2, 8, 8, 2),), dynamic_shapes=({0: torch.export.Dim("b")},)
        )
    check_model(as_model(model, **options), (3, 2, 8, 8), like=first)


class WithBuffer(torch.nn.Module):
    """A buffer that is in no state dict."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 1)
        self.register_buffer("ramp", torch.linspace(0, 1, 8), persistent=False)

    def forward(self, x):
        return self.conv(x * self.ramp)


def test_buffers_follow_the_dtype_of_half_precision_weights(tmp_path):
    module = WithBuffer().half()
    torch.save(module.state_dict(), tmp_path / "half.pth")
    handle = as_model(tmp_path / "half.pth", factory=WithBuffer)
    check_model(handle, (3, 1, 8, 8), like=lambda batch: module(batch.half()))


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_names_that_a_wrapper_gave_fit(prefix, tmp_path):
    state = {prefix + name: value for name, value in trained().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "wrapped.ckpt")
    check_model(
        as_model(tmp_path / "wrapped.ckpt", factory="helpers.networks:Facies"),
        SHAPE,
        like=trained(),
    )


def test_safetensors_are_known_by_what_they_hold(tmp_path):
    path = safetensors(tmp_path).rename(tmp_path / "blob")
    handle = as_model(path, format="state_dict", factory="helpers.networks:Facies")
    check_model(handle, SHAPE, like=trained())


class Bright(torch.nn.Module):
    def forward(self, x):
        return 2 * x.float()


def test_a_model_of_integers_gets_whole_integers():
    """Floats would be cut off, and larger integers would wrap."""
    example = torch.zeros((2, 1, 16, 16), dtype=torch.uint8)
    program = torch.export.export(Bright(), (example,))
    check_model(program, SHAPE, like=Bright())
    image = xr.DataArray(np.full((16, 16), 200, "uint8"), dims=("y", "x"))
    options = {"patch": {"y": 16, "x": 16}}
    assert image.spinn.predict(program, **options).max() == 400
    for dtype in ("float32", "int16"):
        with pytest.raises(ModelError, match=rf"array is {dtype}, .*takes uint8.*astype\('uint8'"):
            image.astype(dtype).spinn.predict(program, **options)


def test_a_factory_whose_code_changes_is_another_model(tmp_path, monkeypatch):
    """The loop of a notebook: edit, reload, predict again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = "import torch\nclass Net(torch.nn.Conv2d):\n    def __init__(self):\n"
    code += "        super().__init__(1, 1, 1)\n    def forward(self, x): return {} * x\n"
    torch.save(torch.nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "w.pth")
    image = xr.DataArray(np.ones((4, 4), "float32"), dims=("y", "x"))
    found = []
    for times in (1, 100):
        (tmp_path / "edited.py").write_text(code.format(times))
        if "edited" in sys.modules:
            importlib.reload(sys.modules["edited"])
        model = as_model(tmp_path / "w.pth", factory="edited:Net")
        found.append(float(image.spinn.predict(model, patch={"y": 4, "x": 4}).max()))
    assert found == [1, 100]


@quiet
@pytest.mark.slow
def test_layouts_of_keras_are_told_apart():
    model = keras_object()
    keys = [as_model(model, channels_last=last).key for last in (None, True, False)]
    assert keys[0] == keys[1] != keys[2]


@quiet
@pytest.mark.slow
def test_onnx_values_in_other_files(tmp_path):
    """In an initializer or in the attribute of a node, beside the file or not loaded at all."""
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor("k", TensorProto.FLOAT, [1], np.float32([3]).tobytes(), raw=True)
    nodes = [
        helper.make_node("Constant", [], ["k"], value=value),
        helper.make_node("Mul", ["x", "k"], ["y"]),
    ]
    sizes = ["batch", 1, "h", "w"]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in "xy"]
    graph = helper.make_graph(nodes, "triple", ports[:1], ports[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "triple.onnx"
    onnx.save(
        made, path, save_as_external_data=True, convert_attribute=True, size_threshold=0,
        location="k.bin",
    )  # fmt: skip
    key = as_model(path).key
    check_model(path, (3, 1, 8, 8), like=lambda batch: 3 * batch)
    with pytest.raises(ModelError, match="in another file, which was not loaded"):
        as_model(onnx.load(path, load_external_data=False))
    raw = np.fromfile(tmp_path / "k.bin", "float32")
    (raw * 2).tofile(tmp_path / "k.bin")
    assert as_model(path).key != key
    (tmp_path / "k.bin").unlink()
    with pytest.raises(ModelError, match="in files beside it cannot be read"):
        as_model(path)


def test_channels_last_is_part_of_what_a_model_is(tmp_path):
    path = safetensors(tmp_path)
    keys = {
        as_model(path, factory="helpers.networks:Facies", channels_last=last).key
        for last in (True, False)
    }
    assert len(keys) == 2


@pytest.mark.extras
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="tensorflow-cpu has wheels for Linux on x86_64 only",
)
@quiet
def test_keras_on_tensorflow(tmp_path):
    """In a process of its own, since Keras has one backend in each."""
    path = keras_file(tmp_path)
    code = f"""
        import sys
        sys.path.insert(0, {TESTS!r})
        from helpers.networks import trained
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
