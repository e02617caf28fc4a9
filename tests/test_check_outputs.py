"""What notebooks may not show is found in what they printed, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from dev import check_outputs


def notebook(folder: Path, **output: Any) -> Path:
    """Write a notebook of one cell that printed one thing."""
    cell = new_code_cell("run()", id="first", outputs=[new_output(**output)])
    path = folder / "page.ipynb"
    nbformat.write(new_notebook(cells=[cell]), path)
    return path


def printed(folder: Path, text: str, name: str = "stdout") -> list[str]:
    path = notebook(folder, output_type="stream", name=name, text=text)
    return list(check_outputs.faults(path))


def test_what_is_written_to_stderr(tmp_path: Path) -> None:
    assert printed(tmp_path, "10 %", name="stderr") == [
        "page.ipynb, cell 'first' writes to stderr: 10 %"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "wrote /tmp/tmpx3/facies.pt2",
        "File '/home/me/run.py'",
        "in /root/run.py",
        "C:\\Users\\me\\run.py",
        f"from {check_outputs.ROOT}/xspinn/api.py",
    ],
)
def test_paths_of_the_machine(text: str, tmp_path: Path) -> None:
    (found,) = printed(tmp_path, text)
    assert found == f"page.ipynb, cell 'first' shows a path of this machine: {text}"


def test_warnings(tmp_path: Path) -> None:
    (found,) = printed(tmp_path, "TqdmWarning: IProgress not found")
    assert "shows a warning: TqdmWarning" in found


def test_html_is_looked_through_and_pictures_are_not(tmp_path: Path) -> None:
    data = {"text/html": "<b>/tmp/a/b</b>", "image/png": "/tmp/a/b"}
    path = notebook(tmp_path, output_type="display_data", data=data)
    assert len(list(check_outputs.faults(path))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "greatest difference: 1.2e-07",
        "see https://example.org/home/me",
        "zarr/tmp/x and <root/>",
        "'facies.pt2' cannot be loaded",
        "5 m/tmp",
    ],
)
def test_what_may_be_shown(text: str, tmp_path: Path) -> None:
    assert printed(tmp_path, text) == []


def test_a_folder_without_notebooks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no notebooks that have run"):
        check_outputs.main(str(tmp_path))
    printed(tmp_path, "in /tmp/x")
    with pytest.raises(SystemExit, match="shows a path of this machine"):
        check_outputs.main(str(tmp_path))
    printed(tmp_path, "fine")
    check_outputs.main(str(tmp_path))
