"""A model whose call itself calls `predict` runs nested, and waits for nobody's turn.

Each test runs in a process of its own: a turn that is waited for in vain would hold all tests back.
"""

import textwrap

from helpers.elsewhere import python

COMMON = """
    import numpy as np, torch, xarray as xr, dask
    import xspinn

    def close(found, wanted):
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    values = np.random.default_rng(0).random((32, 32), dtype="float32")
    image = xr.DataArray(values, dims=("y", "x"))
    tiles = {"patch": {"y": 16, "x": 16}, "overlap": 4, "blocks": 16, "tune": False}
    torch.manual_seed(0)
    inner = torch.nn.Conv2d(1, 1, 3, padding=1)
    expected = image.spinn.predict(inner, **tiles)
    beforehand = image.chunk(16).spinn.predict(inner, **tiles)

    class Nested(torch.nn.Module):
        def __init__(self, ask):
            super().__init__()
            self.ask, self.scale = ask, torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            if x.is_meta:
                return x
            close(self.ask(), expected)
            return x * self.scale

    def in_memory():
        return image.spinn.predict(inner, **tiles)

    def lazily():
        return image.chunk(16).spinn.predict(inner, **tiles).compute(scheduler="threads")

    def made_beforehand():
        return beforehand.compute(scheduler="threads")

    def twice():
        return image.spinn.predict(Nested(in_memory), **tiles) * 0 + expected
"""


def nested(code, **env):
    return python(textwrap.dedent(COMMON) + textwrap.dedent(code), **env).split()


def test_a_module_that_predicts_runs_nested_and_so_does_what_comes_after_it():
    said = nested(
        """
        for ask in (in_memory, lazily, made_beforehand, twice):
            model = Nested(ask)
            for calls in (1, 2):
                with xspinn.set_options(model_calls=calls):
                    close(image.spinn.predict(model, **tiles), image)
            lazy = image.chunk(16).spinn.predict(model, **tiles)
            close(lazy.compute(scheduler="threads"), image)
            close(lazy.compute(scheduler="synchronous"), image)  # in the main thread
            close(image.spinn.predict(inner, **tiles), expected)
            print(ask.__name__)
        """
    )
    assert said == ["in_memory", "lazily", "made_beforehand", "twice"]


def test_what_runs_nested_is_not_in_the_modes_of_the_call_around_it():
    said = nested(
        """
        modes = set()

        def function(x: torch.Tensor):
            modes.add((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
            return x

        def around():
            for scheduler in ("threads", "synchronous"):
                with dask.config.set(scheduler=scheduler):
                    lazy = image.chunk(16).spinn.predict(function, **tiles)
                    close(lazy.compute(), image)
            close(image.spinn.predict(function, **tiles), image)
            return expected

        image.spinn.predict(Nested(around), **tiles, precision="bf16")
        print(modes)
        """
    )
    assert "".join(said) == "{(False,False)}"


def test_a_model_that_predicts_is_measured_without_what_it_predicts(tmp_path):
    said = nested(
        """
        from xspinn.tuning import choosing, measuring

        choosing.MIN_OPERATIONS, measuring.MIN_JOB_SECONDS, tried = 0, 0, []
        measured = choosing._measured

        def noting(client, model, *rest):
            tried.append(model.name)
            return measured(client, model, *rest)

        choosing._measured = noting

        def tuned():
            image.spinn.predict(inner, **{**tiles, "tune": True})
            return expected

        found = image.spinn.predict(Nested(tuned), **{**tiles, "tune": True})
        close(found, image)
        print(*tried)
        """,
        XSPINN_CACHE=str(tmp_path),
    )
    assert said == ["Nested"]


def test_on_a_worker_too():
    said = nested(
        """
        from distributed import Client, LocalCluster

        options = dict(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0")
        with LocalCluster(**options) as cluster, Client(cluster):
            for ask in (in_memory, lazily):
                lazy = image.chunk(16).spinn.predict(Nested(ask), **tiles)
                close(lazy.compute(), image)
                print(ask.__name__)
        """
    )
    assert said == ["in_memory", "lazily"]
