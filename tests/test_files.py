"""Files of xspinn's own appear as a whole or not at all."""

import pytest

from xspinn.files import cache_folder, write_atomically


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("XSPINN_CACHE")
    assert cache_folder().name == "xspinn"


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def cut_off():
        with write_atomically(path) as file:
            file.write(b"ne")
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        cut_off()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with write_atomically(path) as one, write_atomically(path) as other:
        one.write(b"one")
        other.write(b"other")
    assert path.read_bytes() in (b"one", b"other")
    assert list(tmp_path.iterdir()) == [path]
