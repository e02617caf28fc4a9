"""Shrink the picture that the demo draws to one for the first page: ``picture.py FROM TO``."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1600  # pixels
MAX_BYTES = 200_000

if __name__ == "__main__":
    source, target = sys.argv[1:]
    picture = Image.open(source).convert("RGB")
    size = WIDTH, round(picture.height * WIDTH / picture.width)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.save(target, quality=75, method=6)
    n_bytes = Path(target).stat().st_size
    assert n_bytes <= MAX_BYTES, f"{target} has {n_bytes:,} bytes; expected {MAX_BYTES:,} at most"
