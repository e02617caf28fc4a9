"""Data and trained weights that come with published packages, for examples and tests."""

from xspinn.datasets.deep_field import HitScore, cosmic_ray_model, hubble, plant_hits, score_hits

__all__ = ["HitScore", "cosmic_ray_model", "hubble", "plant_hits", "score_hits"]
