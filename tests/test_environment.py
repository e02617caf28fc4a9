"""What a report of a problem says about where it happened."""

from __future__ import annotations

import io
import platform
import sys
from importlib.metadata import version

import pytest
from helpers.elsewhere import python

import xspinn
from xspinn import environment


@pytest.fixture
def shown() -> dict[str, str]:
    """What was printed, by name."""
    file = io.StringIO()
    xspinn.show_versions(file)
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["INSTALLED VERSIONS", "------------------"]
    return dict(line.split(": ", 1) for line in lines[2:] if line)


def test_python_the_system_and_xspinn_are_named(shown: dict[str, str]) -> None:
    assert shown["python"].startswith(platform.python_version())
    assert shown["byteorder"] == sys.byteorder
    assert shown["xspinn"] == xspinn.__version__ == version("xspinn")


def test_packages_that_xspinn_can_use_are_named_and_no_others(shown: dict[str, str]) -> None:
    for package in ("dask", "numpy", "torch", "xarray", "zarr"):
        assert shown[package] == version(package)
    assert {"keras", "matplotlib", "onnxruntime", "openvino", "ray"} <= set(shown)
    assert not {"mypy", "pytest", "sphinx", "monai"} & set(shown)


def test_a_package_that_is_missing_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["numpy>=2.0", 'no-such-package>=1; extra == "keras"', 'mypy; extra == "test"']
    monkeypatch.setattr(environment, "requires", lambda name: wanted)
    xspinn.show_versions()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"numpy: {version('numpy')}", "no-such-package: not installed"]


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, xspinn; xspinn.show_versions(); print('torch' in sys.modules)"
    assert python(code).splitlines()[-1] == "False"
