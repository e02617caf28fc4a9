"""Make known to what will run a graph that models will come.

Neither distributed nor Ray is imported for it: what is not there yet will run nothing.
"""

from __future__ import annotations

import sys

__all__ = ["prepare_carriers"]


def prepare_carriers() -> None:
    """Tell distributed and Ray, as far as they are there already, that models will come."""
    if "distributed" in sys.modules:
        from xspinn.carriers import cluster

        cluster.watch()
    if "ray" in sys.modules:
        from xspinn.carriers import ray

        ray.use_ray()
