"""The demo: a trained network looks for cosmic rays in an image of the Hubble Space Telescope.

Run it with ``python -m xspinn.demo``. Hits are planted in known places, so that the answer can be
counted; the run goes from zarr to zarr over a local cluster of two processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

import xspinn
from xspinn.datasets import HitScore, cosmic_ray_model, hubble, plant_hits, score_hits
from xspinn.plot import lattice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xspinn.datasets.cosmic_rays import CosmicRayUNet
    from xspinn.plans.plan import Plan

CHUNKS = {"y": 256, "x": 256}
# One batch would hold most of this small image: smaller blocks give both workers their share.
TILING: dict[str, Any] = {"patch": {"y": 256, "x": 256}, "overlap": 32, "blocks": 224}
THRESHOLD = 0.5
ZOOM = 80  # pixels


@dataclass(frozen=True)
class Report:
    """What one run of the demo measured."""

    patches: int
    voxels: int
    seconds: float
    score: HitScore
    clean_flagged: int
    difference: float
    files: dict[str, Path]

    def __str__(self) -> str:
        score, speed = self.score, self.voxels / self.seconds
        rows = {
            "time": f"{self.seconds:.1f} s from zarr to zarr, {speed:,.0f} voxels a second",
            "hits": f"{score.hits_found} of {score.hits} planted hits found",
            "pixels": f"{score.pixels_found} of {score.pixels} planted pixels found "
            f"({score.recall:.1%})",
            "false": f"{score.pixels_false} other pixels flagged (precision {score.precision:.1%})",
            "clean image": f"{self.clean_flagged} pixels flagged where no hits were planted",
            "seams": f"at most {self.difference:.1e} from the network on the whole image at once",
        }
        return _table(rows) + "\n" + _table({what: str(path) for what, path in self.files.items()})


def run(output: Path, hits: int = 200) -> Report:
    """Plant hits, find them again, write the files, and return what was measured."""
    names = {"image": "image.zarr", "prediction": "cosmic_rays.zarr"}
    names |= {"netCDF": "cosmic_rays.nc", "picture": "cosmic_rays.png"}
    files = {what: output / name for what, name in names.items()}
    output.mkdir(parents=True, exist_ok=True)
    model, clean = cosmic_ray_model(), hubble()
    image, truth = plant_hits(clean, hits)
    image.chunk(CHUNKS).to_zarr(files["image"], mode="w", consolidated=False)
    image = xr.open_zarr(files["image"], consolidated=False)["hubble"]
    plan = xspinn.plan(image, model, **TILING)
    size, patch = (" x ".join(map(str, n)) for n in (image.shape, TILING["patch"].values()))
    print(_table({
        "image": f"{size} pixels, {hits} cosmic-ray hits planted",
        "network": f"deepCR ACS-WFC, {sum(w.numel() for w in model.parameters()):,} weights",
        "patches": f"{plan.n_patches} of {patch}, overlap {TILING['overlap']}",
        "cluster": "2 worker processes, 1 thread each",
    }), flush=True)  # fmt: skip

    seconds = _predict_on_cluster(image, model, files["prediction"])
    image = image.load()
    probability = xr.open_zarr(files["prediction"], consolidated=False)["probability"].load()
    mask = probability > THRESHOLD
    _write_netcdf(image, probability, mask, files["netCDF"])
    _draw(image, mask, truth, plan, files["picture"])

    return Report(
        patches=plan.n_patches,
        voxels=image.size,
        seconds=seconds,
        score=score_hits(mask, truth),
        clean_flagged=int((clean.spinn.predict(model, **TILING) > THRESHOLD).sum()),
        difference=float(abs(probability - _whole_image(model, image)).max()),
        files=files,
    )


def _predict_on_cluster(image: xr.DataArray, model: CosmicRayUNet, target: Path) -> float:
    """Predict from the zarr store behind the image to another one; return the seconds."""
    from distributed import Client, LocalCluster, progress

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        start = perf_counter()
        probability = image.spinn.predict(model, **TILING, name="probability")
        future = client.compute(
            probability.to_zarr(target, mode="w", consolidated=False, compute=False)
        )
        if sys.stdout.isatty():  # a log would keep every state of the bar
            progress(future, notebook=False)
        future.result()
        return perf_counter() - start


def _whole_image(model: CosmicRayUNet, image: xr.DataArray) -> xr.DataArray:
    """Run the network on the whole image at once, without patches."""
    import torch

    with torch.inference_mode():
        return image.copy(data=model(torch.from_numpy(image.to_numpy())[None, None])[0, 0].numpy())


def _write_netcdf(
    image: xr.DataArray, probability: xr.DataArray, mask: xr.DataArray, path: Path
) -> None:
    flags = mask.astype("int8").assign_attrs(
        long_name=f"probability above {THRESHOLD}",
        flag_values=np.array([0, 1], dtype="int8"),
        flag_meanings="clean cosmic_ray",
    )
    data = xr.Dataset({"image": image, "probability": probability, "mask": flags})
    data.drop_encoding().to_netcdf(path, encoding={name: {"zlib": True} for name in data})


def _draw(
    image: xr.DataArray, mask: xr.DataArray, truth: xr.DataArray, plan: Plan, path: Path
) -> None:
    """Draw the image, the flagged pixels and the lattice, with a zoom to where most happens."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    outcomes = {
        "found": (mask & truth, "#3ddbd9"),
        "missed": (truth & ~mask, "#ff7eb6"),
        "false": (mask & ~truth, "#f1c21b"),
    }
    corner = {"y": image.sizes["y"] // 4, "x": image.sizes["x"] // 2}  # clear of insets and legend
    interest = (truth + 2.0 * (truth != mask))[corner["y"] :, corner["x"] :]
    boxes = interest.coarsen(y=ZOOM, x=ZOOM, boundary="trim").sum()
    best = boxes.argmax(...)
    top, left = (corner[d] + ZOOM * int(best[d]) - 0.5 for d in ("y", "x"))
    with rc_context({"text.color": "#e8e8e8", "font.size": 11, "axes.titlesize": 13}):
        figure = Figure(figsize=(19, 5.9), layout="constrained", facecolor="#11131a")
        panels = figure.subplots(1, 3)
        _show(panels[2], image, 0.7)
        lattice(plan, panels[2], patch_color="#78a9ff", block_color="#ff832b")
        for panel, brightness in zip(panels[:2], (1.0, 0.4), strict=True):
            _show(panel, image, brightness)
            inset = panel.inset_axes((0.015, 0.017, 0.47, 0.54))
            _show(inset, image, max(brightness, 0.6))
            inset.set(xlim=(left, left + ZOOM), ylim=(top + ZOOM, top))
            panel.indicate_inset_zoom(inset, edgecolor="white", alpha=0.8)
        for name, (pixels, color) in outcomes.items():
            y, x = np.nonzero(pixels.to_numpy())
            panels[1].scatter(x, y, s=6, color=color, linewidth=0, label=f"{len(x)} {name}")
            inset.scatter(x, y, s=6.5, color=color, marker="s", linewidth=0)
        panels[1].legend(loc="upper right", markerscale=3, framealpha=0.8, facecolor="#11131a")
        panels[0].set_title("Hubble eXtreme Deep Field with planted hits")
        panels[1].set_title("Pixels flagged as cosmic rays")
        panels[2].set_title(f"{plan.n_patches} patches, overlaps shaded; blocks in orange")
        figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.1)


def _show(axes: Axes, image: xr.DataArray, brightness: float) -> None:
    stretched = np.arcsinh((image.to_numpy() - 8) / 20)
    axes.imshow(brightness * stretched, cmap="gray", vmin=0, vmax=3.3)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#c6c6c6")


def _table(rows: dict[str, str]) -> str:
    return "".join(f"  {word:<12} {text}\n" for word, text in rows.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(prog="python -m xspinn.demo", description=run.__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to fill")
    parser.add_argument("--hits", type=int, default=200, help="cosmic-ray hits to plant")
    options = parser.parse_args(arguments)
    print("\nCosmic rays in the Hubble eXtreme Deep Field\n")
    print(run(options.output, options.hits))


if __name__ == "__main__":
    main()
