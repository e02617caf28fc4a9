"""TorchScript whose code does more than compute is refused before torch compiles it."""

import warnings

import pytest
import torch
from helpers import zoo
from helpers.archives import members, replace

from xspinn import as_model
from xspinn.errors import ModelError

# The libraries warn about themselves while models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Plain(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1


def plain(folder):
    """Save a program of two operators, and return its path and where its code is."""
    path = folder / "plain.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Plain()), path)
    (member,) = [name for name in members(path) if name.endswith(".py")]
    return path, member.partition("/")[2], members(path)[member].decode()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('torch.from_file("{victim}", True, 64)', "from_file"),
        ('ops.aten.from_file("{victim}", True, 64)', "ops.aten.from_file"),
        ('("{victim}").from_file(True, 64)', "from_file"),
        ('getattr("{victim}", "from_file")(True, 64)', "from_file"),
        (r'getattr("{victim}", "\\146rom_file")(True, 64)', "getattr"),
        ("torch._reshape_alias(x, [1000], [1])", "_reshape_alias"),
        ("ops.quantized.relu6(x)", "ops.quantized.relu6"),
        ("ops.inductor._reinterpret_tensor(x, [9], [1])", "ops.inductor._reinterpret_tensor"),
        ("ops.prim.rpc_sync(x)", "ops.prim.rpc_sync"),
        ("rpc_sync(x)", "rpc_sync"),
        ("__torch__.torch.classes.c10d.Store(x)", "classes"),
    ],
)
def test_torchscript_that_does_more_than_compute(tmp_path, code, named):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 64)
    path, member, text = plain(tmp_path)
    line = f"    _9 = {code.replace('{victim}', str(victim))}\n    return "
    replace(path, member, text.replace("    return ", line).encode())
    with pytest.raises(ModelError, match=rf"uses '{named}' in .*py', which is none of .*allow_pic"):
        as_model(path)
    assert victim.read_bytes() == b"precious" * 64


def test_torchscript_that_writes_when_it_is_loaded(tmp_path):
    """Torch runs ``__setstate__`` while it loads an archive."""

    class Stateful(torch.nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path = path

        def forward(self, x):
            return x

        @torch.jit.export
        def __getstate__(self):
            return self.path, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]):
            self.path, self.training = state[0], state[1]
            torch.save(torch.zeros(3), self.path)

    path = tmp_path / "stateful.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Stateful(str(tmp_path / "loot"))), path)
    with pytest.raises(ModelError, match="uses 'save' in"):
        as_model(path)
    assert not (tmp_path / "loot").exists()
    as_model(path, allow_pickle=True)
    assert (tmp_path / "loot").exists()


def test_torchscript_that_makes_classes_of_compiled_libraries(tmp_path):
    path, _, _ = plain(tmp_path)
    pickled = b"\x80\x02c__torch__.torch\nclasses.quantized.LinearPackedParamsBase\n."
    replace(path, "constants.pkl", pickled)
    with pytest.raises(ModelError, match=r"uses '__torch__.torch.classes.quantized.Linear"):
        as_model(path)


def test_a_program_in_memory_is_the_users_own(tmp_path):
    models = [as_model(zoo.scripted()), as_model(zoo.exported()), as_model(zoo.pt2(tmp_path))]
    assert [getattr(model, "allow_pickle") for model in models] == [True, True, False]  # noqa: B009


@pytest.mark.parametrize(
    "make",
    [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(2, 16, 16), check_trace=False)],
)
def test_torchscript_of_torchs_own_layers_is_let_through(tmp_path, make):
    layers = (torch.nn.LSTM, torch.nn.GRU)

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.gru = (kind(16, 16, batch_first=True) for kind in layers)
            self.attention = torch.nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)
            self.norm = torch.nn.InstanceNorm1d(16)

        def forward(self, x):
            y = self.gru(self.lstm(x)[0])[0]
            y = self.norm(self.attention(y))
            return torch.nn.functional.interpolate(y[:, None], scale_factor=2.0, mode="bilinear")

    network = Layers().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(make(network), tmp_path / "layers.ts")
    batch = torch.rand(2, 16, 16)
    with torch.inference_mode():
        wanted = network(batch)
    got = as_model(tmp_path / "layers.ts").load(torch.device("cpu"))(batch)
    torch.testing.assert_close(got, wanted)
