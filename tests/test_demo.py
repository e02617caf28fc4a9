"""The demo, from end to end: real weights, a real image, two worker processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xspinn import demo
from xspinn.datasets import hubble, plant_hits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> demo.Report:
    return demo.run(tmp_path_factory.mktemp("demo"))


def test_hits_are_found(report: demo.Report) -> None:
    assert report.score.hits == 200
    assert report.score.hits_found >= 195
    assert report.score.recall >= 0.95
    assert report.score.precision >= 0.9
    assert report.clean_flagged <= 10


def test_no_seams(report: demo.Report) -> None:
    # Patches overlap by more than twice what the network sees, and begin where its pooling does.
    assert report.difference < 1e-5


def test_run_is_measured(report: demo.Report) -> None:
    assert report.patches == 4 * 5
    assert report.voxels == 872 * 1000
    assert report.seconds > 0


def test_files_hold_the_answer(report: demo.Report) -> None:
    image, truth = plant_hits(hubble())
    with xr.open_zarr(report.files["image"], consolidated=False) as source:
        xr.testing.assert_allclose(source["hubble"], image)
    with (
        xr.open_zarr(report.files["prediction"], consolidated=False) as zarr,
        xr.open_dataset(report.files["netCDF"]) as netcdf,
    ):
        assert set(netcdf.data_vars) == {"image", "probability", "mask"}
        for stored in (zarr["probability"], netcdf["probability"]):
            assert stored.dims == image.dims
            assert stored.dtype == np.float32
            xr.testing.assert_equal(stored["x"], image["x"])
            xr.testing.assert_equal(stored["y"], image["y"])
            assert "units" not in stored.attrs  # a probability is no count
        xr.testing.assert_equal(zarr["probability"], netcdf["probability"])
        xr.testing.assert_allclose(netcdf["image"], image)
        assert netcdf["mask"].attrs["flag_meanings"] == "clean cosmic_ray"
        flagged = netcdf["mask"] == 1
        assert int((flagged & truth).sum()) == report.score.pixels_found
        assert int((flagged & ~truth).sum()) == report.score.pixels_false


def test_picture_is_drawn(report: demo.Report) -> None:
    picture = report.files["picture"].read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 100_000


def test_report_is_aligned(report: demo.Report) -> None:
    lines = str(report).splitlines()
    assert {line[14:15] for line in lines if line} == {" "}
    assert all(line[15:16] != " " for line in lines if line)
    assert any("of 200 planted hits found" in line for line in lines)


def test_second_run_replaces_the_first(
    report: demo.Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "again"
    shutil.copytree(report.files["image"].parent, output)
    demo.main(["--hits", "3", "--output", str(output)])
    assert "3 of 3 planted hits found" in capsys.readouterr().out
    with xr.open_zarr(output / "cosmic_rays.zarr", consolidated=False) as again:
        assert int((again["probability"] > 0.5).sum()) < 50
    assert {path.name for path in output.iterdir()} == {
        "image.zarr",
        "cosmic_rays.zarr",
        "cosmic_rays.nc",
        "cosmic_rays.png",
    }
