"""Equal tokens promise equal voxels; the same store twice is one source."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from torch import nn

import xspinn  # noqa: F401 - registers .spinn
from xspinn.graph import tokens
from xspinn.graph.tokens import token_of

VALUES = np.arange(60.0).reshape(6, 10)
PACKED = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -1}


def write(kind, path, values=VALUES):
    array = xr.DataArray(values, dims=("y", "x"), name="a")
    if "zarr" in kind:
        shutil.rmtree(path, ignore_errors=True)
        version = 2 if "2" in kind else 3
        chunked = array.chunk(y=4, x=5).to_dataset()
        chunked.to_zarr(path, mode="w", zarr_format=version, consolidated=False)
    elif "scipy" in kind:
        array.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")
    else:
        array.to_dataset().to_netcdf(path, encoding={"a": PACKED})


def read(kind, path):
    chunks = {"chunks": {}} if "chunks" in kind else {}
    if "zarr" in kind:
        return xr.open_dataset(path, engine="zarr", consolidated=False, **chunks)["a"]
    return xr.open_dataset(path, engine="scipy" if "scipy" in kind else None, **chunks)["a"]


KINDS = [
    "zarr 3", "zarr 2", "zarr 3, chunks", "zarr 2, chunks", "netCDF", "netCDF, chunks", "scipy",
]  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def token(kind, path):
    array = read(kind, path)
    found = token_of(array.variable)
    assert not array.variable._in_memory, "nothing is read"
    array.close()
    return found


def test_the_same_store_twice_is_one_source(kind, tmp_path):
    path = tmp_path / "store"
    write(kind, path)
    assert token(kind, path) == token(kind, path)


def test_a_store_that_is_written_anew_is_another(kind, tmp_path):
    path = tmp_path / "store"
    write(kind, path)
    before = token(kind, path)
    later(path, lambda: write(kind, path, VALUES + 1))
    assert token(kind, path) != before


def test_another_variable_or_file_is_another(kind, tmp_path):
    for name in ("one", "two"):
        write(kind, tmp_path / name)
    assert token(kind, tmp_path / "one") != token(kind, tmp_path / "two")


def later(path, change):
    """Make a change, and let the clock tick, which two tests' steps may not last."""
    change()
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        stat = file.stat()
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("chunks", [None, {}])
def test_one_chunk_that_changes_is_seen(version, chunks, tmp_path):
    path = tmp_path / "a.zarr"
    write(f"zarr {version}", path)

    def run():
        array = xr.open_zarr(path, chunks=chunks, consolidated=False)["a"]
        result = array.spinn.predict(nn.Identity(), patch={"x": 4}, overlap=1)
        return {str(key) for key in result.__dask_graph__() if "spinn-run" in str(key)}

    before = run()
    assert run() == before
    chunk = path / "a" / ("c/1/1" if version == 3 else "1.1")
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1  # as many bytes as before
    chunk.write_bytes(content)
    os.utime(chunk, ns=(0, chunk.stat().st_mtime_ns + 1_000_000))
    assert not run() & before


def test_an_array_that_is_computed_knows_what_it_was_computed_from(tmp_path):
    path = tmp_path / "a.zarr"
    write("zarr 3", path)

    def computed():
        return token_of((xr.open_zarr(path, consolidated=False)["a"] * 2).variable)

    before = computed()
    assert computed() == before
    (path / "a" / "c" / "0" / "0").unlink()
    assert computed() != before


def test_selections_differ(kind, tmp_path):
    path = tmp_path / "store"
    write(kind, path)
    array = read(kind, path)
    parts = [array, array[1:], array[:5], array[::2], array[:, [0, 3]], array[:, [0, 4]], array.T]
    found = [token_of(part.variable) for part in parts]
    assert len(set(found)) == len(found)
    again = read(kind, path)
    assert token_of(again[1:].variable) == found[1]
    assert token_of(again[:, [0, 3]].variable) == found[4]


def test_decoding_differs(tmp_path):
    write("netCDF", tmp_path / "a.nc")
    found = set()
    for decode in (True, False):
        with xr.open_dataset(tmp_path / "a.nc", mask_and_scale=decode) as opened:
            found.add(token_of(opened["a"].variable))
    assert len(found) == 2


def test_groups_and_variables_of_one_file_differ(tmp_path):
    array = xr.DataArray(VALUES, dims=("y", "x"))
    for group in ("one", "two"):
        mode = "a" if group == "two" else "w"
        array.to_dataset(name="a").to_netcdf(tmp_path / "a.nc", group=group, mode=mode)
    array.to_dataset(name="b").to_netcdf(tmp_path / "a.nc", group="one", mode="a")
    found = set()
    for group, name in (("one", "a"), ("one", "b"), ("two", "a")):
        with xr.open_dataset(tmp_path / "a.nc", group=group) as opened:
            found.add(token_of(opened[name].variable))
    assert len(found) == 3


def test_a_url_of_a_local_file(tmp_path):
    write("zarr 3", tmp_path / "a.zarr")
    place = f"file://{tmp_path / 'a.zarr'}"

    def opened():
        try:
            return token_of(xr.open_zarr(place, chunks=None, consolidated=False)["a"].variable)
        except TypeError:
            pytest.skip("this zarr opens no file:// at all")

    before = opened()
    assert opened() == before
    later(tmp_path / "a.zarr", lambda: None)
    assert opened() != before


def test_h5netcdf(tmp_path):
    path = tmp_path / "a.nc"
    xr.DataArray(VALUES, dims=("y", "x"), name="a").to_netcdf(path, engine="h5netcdf", group="g")

    def opened():
        with xr.open_dataset(path, engine="h5netcdf", group="g") as dataset:
            return token_of(dataset["a"].variable)

    before = opened()
    assert opened() == before
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    assert opened() != before


def test_values_in_memory():
    def known(values):
        return token_of(xr.Variable(("y", "x"), values))

    assert known(VALUES) == known(VALUES.copy()) == known(np.asfortranarray(VALUES))
    changed = VALUES.copy()
    changed[5, 9] += 1e-9
    others = [changed, VALUES.astype("f4"), VALUES.T, VALUES.reshape(10, 6), VALUES[::-1]]
    assert len({known(values) for values in (VALUES, *others)}) == 1 + len(others)
    assert known(VALUES[:0]) != known(VALUES[:, :0])


def test_a_loaded_variable_is_known_by_its_values(tmp_path):
    write("netCDF", tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as opened:
        loaded = opened["a"].load()
    assert token_of(loaded.variable) == token_of(loaded.copy().variable)


def test_dask_arrays_without_a_store_have_dasks_name():
    array = da.ones((6, 10), chunks=3)
    assert token_of(xr.Variable(("y", "x"), array)) == array.name


def test_what_does_not_tell_is_new_each_time(tmp_path, monkeypatch):
    memory = zarr.storage.MemoryStore()
    xr.DataArray(VALUES, dims=("y", "x"), name="a").to_zarr(memory, consolidated=False)
    for chunks in (None, {}):
        opened = xr.open_zarr(memory, consolidated=False, chunks=chunks)["a"]
        assert token_of(opened.variable) != token_of(opened.variable)
    write("zarr 3", tmp_path / "a.zarr")
    monkeypatch.setattr(tokens, "MAX_FILES", 4)
    opened = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["a"]
    assert token_of(opened.variable) != token_of(opened.variable)


def test_a_plan_looks_at_no_file_of_a_store(tmp_path, monkeypatch):
    write("zarr 3", tmp_path / "a.zarr")
    opened = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["a"]
    monkeypatch.setattr(tokens, "_store", lambda array: pytest.fail("the files are looked at"))
    assert opened.spinn.plan(nn.Identity(), patch={"x": 4}).n_patches > 0


@pytest.mark.slow
def test_tokens_are_the_same_in_another_process(tmp_path):
    paths = {kind: tmp_path / f"store {k}" for k, kind in enumerate(KINDS)}
    for kind, path in paths.items():
        write(kind, path)
    (tmp_path / "paths").write_bytes(pickle.dumps((sys.path, paths)))
    here = Path(__file__).parent
    code = (
        f"import pickle, sys; from pathlib import Path; sys.path.insert(0, {str(here)!r})\n"
        f"where, paths = pickle.loads(Path({str(tmp_path / 'paths')!r}).read_bytes())\n"
        "sys.path += where\n"
        "import test_tokens\n"
        "for kind, path in paths.items(): print(test_tokens.token(kind, path))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [token(kind, path) for kind, path in paths.items()]


def test_datasets_are_known_by_all_their_variables(tmp_path):
    write("zarr 3", tmp_path / "a.zarr")
    opened = xr.open_zarr(tmp_path / "a.zarr", chunks=None, consolidated=False)

    def names(dataset):
        result = dataset.spinn.predict(nn.Identity(), patch={"x": 4})
        with dask.config.set(scheduler="sync"):
            return set(map(str, result.__dask_graph__()))

    both = opened.assign(b=opened["a"][::-1])
    assert names(both) == names(both)
    assert names(both) != names(opened.assign(b=opened["a"]))
