"""Models at URLs: fetched once where their hash is known, and never taken for another."""

import http.server
import pickle
import threading
import traceback
from hashlib import sha256

import numpy as np
import pytest
import xarray as xr
from helpers import zoo
from helpers.networks import trained

from xspinn import as_model
from xspinn.carriers import remote
from xspinn.errors import ModelError

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # torch and zipfile warn about themselves
    "ignore::FutureWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",  # pooch leaves a socket open after a 404
)


PATCH = {"y": 16, "x": 16}


@pytest.fixture
def image():
    return xr.DataArray(np.ones((40, 40), "float32"), dims=("y", "x")).chunk(20)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve a folder, with a cache of its own for what is fetched; count requests."""
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path / "cache"))
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{made.server_port}", asked
        made.shutdown()


def test_a_url_is_fetched_once_where_the_hash_is_known(image, server):
    folder, address, asked = server
    path = zoo.pt2(folder)
    held = sha256(path.read_bytes()).hexdigest()
    model = as_model(f"{address}/facies.pt2", sha256=held)
    again = as_model(f"{address}/facies.pt2", sha256=held)
    assert len(asked) == 1
    assert model.key == again.key == as_model(path).key
    wanted = image.spinn.predict(trained(), patch=PATCH)
    np.testing.assert_allclose(image.spinn.predict(model, patch=PATCH), wanted, atol=1e-5)
    assert len(asked) == 1, "a handle of a URL knows its hash"
    as_model(f"{address}/facies.pt2")
    assert len(asked) == 2, "without a hash nobody knows whether the file is still the same"


def test_a_url_that_is_not_there(image, server):
    _, address, _ = server
    with pytest.raises(ModelError, match=r"none.pt2 cannot be fetched: .*404.*Check the address"):
        image.spinn.predict(f"{address}/none.pt2", patch=PATCH)


def test_a_url_with_another_hash(server):
    folder, address, _ = server
    zoo.pt2(folder)
    with pytest.raises(ModelError, match=r"facies.pt2 cannot be fetched: .*[hH]ash"):
        as_model(f"{address}/facies.pt2", sha256="0" * 64)
    assert not list((folder.parent / "cache").rglob("*.pt2"))


def test_a_url_of_another_file_system(image, monkeypatch, tmp_path):
    import fsspec

    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path / "cache"))
    raw = zoo.pt2(tmp_path).read_bytes()
    with fsspec.open("memory://models/facies.pt2", "wb") as file:
        file.write(raw)
    model = as_model("memory://models/facies.pt2", sha256=sha256(raw).hexdigest())
    assert model.content.origin == "memory://models/facies.pt2"
    assert model.key == as_model(tmp_path / "facies.pt2").key
    with pytest.raises(ModelError, match=r"has sha256 .*, but 0000"):
        as_model("memory://models/facies.pt2", sha256="0" * 64)


def test_a_bad_copy_does_not_stick(monkeypatch, tmp_path):
    import fsspec

    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path / "cache"))
    raw = zoo.pt2(tmp_path).read_bytes()
    held = sha256(raw).hexdigest()
    for content in (raw[:100], raw):
        with fsspec.open("memory://models/later.pt2", "wb") as file:
            file.write(content)
        if content is raw:
            as_model("memory://models/later.pt2", sha256=held)
        else:
            with pytest.raises(ModelError, match="has sha256"):
                as_model("memory://models/later.pt2", sha256=held)


HIDDEN = "drowssap"[::-1]  # not as it is: tracebacks show lines of tests


def said(caught):
    """Return an error with all that Python prints of it."""
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("why", ["missing", "damaged", "another hash", "no format"])
def test_secrets_in_urls_are_not_shown(server, why):
    folder, address, asked = server
    (folder / "facies.pt2").write_bytes(b"no program")
    (folder / "facies.abc").write_bytes(b"no program")
    name = {"missing": "none.pt2", "no format": "facies.abc"}.get(why, "facies.pt2")
    user = address.replace("://", f"://somebody:{HIDDEN}%2F1@")
    wanted = {"sha256": "0" * 64} if why == "another hash" else {}
    with pytest.raises(ModelError, match=r"127.0.0.1") as caught:
        as_model(f"{user}/{name}?signature={HIDDEN}2&x=1#{HIDDEN}3", **wanted)
    assert HIDDEN not in said(caught)
    assert f"signature={HIDDEN}2" in asked[-1], "it is used nevertheless"


def test_secrets_of_another_file_system_are_not_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("XSPINN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError) as caught:
        as_model(f"simplecache::memory://key:{HIDDEN}@models/none.pt2?token={HIDDEN}")
    assert HIDDEN not in said(caught)


def test_secrets_of_a_redirect_are_not_shown(monkeypatch):
    def redirected(url, sha256, target):
        raise OSError(f"403 for url: https://cdn.example.org/x?Signed={HIDDEN} (/x?key={HIDDEN})")

    monkeypatch.setattr(remote, "_with_pooch", redirected)
    with pytest.raises(ModelError, match=r"403 for url: https://cdn.example.org/x ") as caught:
        as_model("https://example.org/facies.pt2")
    assert HIDDEN not in said(caught)


def test_a_handle_shows_no_secret_and_keeps_it(server):
    folder, address, asked = server
    zoo.pt2(folder)
    user = address.replace("://", f"://somebody:{HIDDEN}@")
    model = as_model(f"{user}/facies.pt2?signature={HIDDEN}")
    assert model.content.origin == f"{address.replace('://', '://***@')}/facies.pt2"
    assert HIDDEN not in f"{model!r} {model.name}"
    there = pickle.loads(pickle.dumps(model.content))
    assert len(there._read()) == model.content.n_bytes
    (folder / "facies.pt2").write_bytes(b"another")
    for copy in (folder.parent / "cache").rglob("*facies.pt2"):
        copy.unlink()
    with pytest.raises(ModelError) as caught:
        there._read()
    assert HIDDEN not in said(caught)
    assert f"signature={HIDDEN}" in asked[-1]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/facies.pt2", "https://example.org/facies.pt2"),
        ("https://me:secret@example.org/f.pt2", "https://***@example.org/f.pt2"),
        ("https://secret@example.org/f.pt2#secret", "https://***@example.org/f.pt2"),
        ("https://me:se/cr@et@example.org/f.pt2", "https://***@example.org/f.pt2"),
        ("zip://f.pt2::https://me:secret@e.org/a.zip?k=1", "zip://***@e.org/a.zip"),
        ("/data/me:who@there?.pt2", "/data/me:who@there?.pt2"),
    ],
)
def test_what_is_shown_of_a_url(url, shown):
    assert remote.shown(url) == shown


def test_dois_are_urls():
    assert remote.is_url("doi:10.5281/zenodo.4924875/model.pt2")


def test_windows_drives_are_no_urls():
    assert not remote.is_url(r"C:\models\facies.pt2")
    assert not remote.is_url("c://models/facies.pt2")
    assert remote.is_url("s3://models/facies.pt2")


def test_handles_of_urls_are_small(server):
    folder, address, _ = server
    zoo.pt2(folder)
    assert len(pickle.dumps(as_model(f"{address}/facies.pt2"))) < 1000
