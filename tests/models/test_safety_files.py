"""Files that never end, unpack to more than there is room for, or are not what they are called."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from helpers import zoo
from helpers.archives import replace
from helpers.networks import Facies
from safetensors.torch import save_file

from xspinn import as_model
from xspinn.errors import ModelError
from xspinn.models.formats.zips import check_zip, read_members

# The libraries warn about themselves while models are made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MANY = 80 * 1024**2
"""Bytes of nothing, which shrink to a thousandth."""


# -- archives --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["facies.pt2", "facies.ts", "facies.pth"])
def test_an_archive_that_unpacks_to_far_more_than_it_is(tmp_path, name):
    make = {"facies.pt2": zoo.pt2, "facies.pth": zoo.pth}.get(name)
    path = make(tmp_path) if make else zoo.torchscript(tmp_path, ".ts")
    member = "data/weights/weight_9" if name == "facies.pt2" else "data/99"
    replace(path, member, bytes(MANY), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    factory = {"factory": Facies} if name == "facies.pth" else {}
    match = name + r" has \d+ bytes and says that it unpacks to 8\d+;"
    with pytest.raises(ModelError, match=match):
        as_model(path, **factory)


def test_a_keras_archive_that_unpacks_to_far_more_than_it_is(tmp_path):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(MANY))
    with pytest.raises(ModelError, match="says that it unpacks to"):
        check_zip(np.frombuffer(held.getvalue(), np.uint8), "facies.keras")


def test_pickled_tensors_inside_an_archive_are_bounded_too(tmp_path):
    path, inner = zoo.pt2(tmp_path), tmp_path / "inner.pt"
    torch.save(torch.zeros(1), inner)
    replace(inner, "data/9", bytes(MANY), zipfile.ZIP_DEFLATED)
    replace(path, "data/sample_inputs/model.pt", inner.read_bytes())
    with pytest.raises(ModelError, match=r"sample_inputs/model.pt has .* says that it unpacks to"):
        as_model(path)


def test_an_archive_that_promises_less_than_it_unpacks_to():
    """What a member promises is a number in the file, and not to be trusted."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/weights/weight_0", bytes(MANY))
        archive.infolist()[0].file_size = 10
    raw = np.frombuffer(held.getvalue(), np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile):
            read_members(raw, "facies.pt2", lambda member: True)
        assert tracemalloc.get_traced_memory()[1] < MANY / 4
    finally:
        tracemalloc.stop()


def test_weights_that_shrink_are_no_bomb(tmp_path):
    """An archive that somebody packed anew, with compression."""
    path = zoo.pt2(tmp_path)
    replace(path, "data/weights/weight_9", bytes(2**20), zipfile.ZIP_DEFLATED)
    assert as_model(path).n_bytes == path.stat().st_size


# -- pipes and devices -----------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in this file system")
@pytest.mark.parametrize("how", ["path", "link", "url"])
def test_a_pipe_is_no_model_file(tmp_path, how):
    pipe, link = tmp_path / "pipe.pt2", tmp_path / "link.pt2"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    given = {"path": pipe, "link": link, "url": f"file://{pipe}"}[how]
    with pytest.raises(ModelError, match=r"is no regular file but a pipe, a device or a socket"):
        as_model(given)


def test_a_device_is_no_model_file():
    with pytest.raises(ModelError, match=r"'/dev/null' is no regular file"):
        as_model("/dev/null", format="state_dict", factory=Facies)


def test_a_file_by_its_url_is_a_file(tmp_path):
    path = zoo.safetensors(tmp_path)
    model = as_model(f"file://{path}", factory=Facies)
    assert model.content.origin == str(path)


# -- files that name others ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sparse", "function"])
@pytest.mark.parametrize("named", ["secret.bin", "../secret.bin", "/etc/hostname"])
def test_onnx_takes_weights_from_its_own_folder_alone(tmp_path, monkeypatch, place, named):
    """ONNX Runtime would look for the rest in the folder where Python was started."""
    from onnx import SparseTensorProto, TensorProto, helper

    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype="float32").tobytes())
    monkeypatch.chdir(tmp_path)
    outside = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value=named)
    x, y = (helper.make_tensor_value_info(name, 1, ["n", 4]) for name in "xy")
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    nodes, functions = [helper.make_node("Add", ["x", "w"], ["y"])], []
    if place == "sparse":
        at = helper.make_tensor("at", TensorProto.INT64, [4], [0, 1, 2, 3])
        held = SparseTensorProto(values=outside, indices=at, dims=[4])
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=held))
    else:
        made = [helper.make_node("Constant", [], ["v"], value=outside)]
        branch = helper.make_graph(made, "b", [], [helper.make_tensor_value_info("v", 1, [4])])
        always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
        inner = [
            helper.make_node("Constant", [], ["c"], value=always),
            helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=branch),
        ]
        functions = [helper.make_function("own", "Weights", [], ["b"], inner, versions[:1])]
        nodes.insert(0, helper.make_node("Weights", [], ["w"], domain="own"))
    graph = helper.make_graph(nodes, "graph", [x], [y])
    proto = helper.make_model(graph, functions=functions, opset_imports=versions, ir_version=8)
    path = tmp_path / "model" / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="in files beside it cannot be read"):
        as_model(path)


# -- damaged weights -------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["length", "no length", "cut in the header", "empty"])
def test_safetensors_with_a_broken_header_are_damaged(tmp_path, harm):
    path = zoo.safetensors(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(
        {
            "length": (10**9).to_bytes(8, "little") + raw[8:],
            "no length": raw[8:],
            "cut in the header": raw[:20],
            "empty": b"",
        }[harm]
    )
    with pytest.raises(
        ModelError, match=r"facies.safetensors cannot be loaded .*cut off"
    ) as caught:
        as_model(path, factory=Facies)
    assert "more than tensors" not in str(caught.value)


def test_weights_that_are_no_file_of_torchs_are_damaged(tmp_path):
    path = tmp_path / "facies.pth"
    path.write_bytes(b"<html>Not found</html>")
    with pytest.raises(ModelError, match=r"facies.pth begins with b'<h', .* cut off, damaged, or"):
        as_model(path, factory=Facies)


def test_safetensors_of_another_name(tmp_path):
    save_file(Facies().state_dict(), tmp_path / "facies.bin")
    handle = as_model(tmp_path / "facies.bin", format="state_dict", factory=Facies)
    assert handle.n_bytes == (tmp_path / "facies.bin").stat().st_size
