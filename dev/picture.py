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
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.LANCZOS)
    picture.save(target, quality=75, method=6)
    size = Path(target).stat().st_size
    assert size <= MAX_BYTES, f"{target} has {size:,} bytes; expected {MAX_BYTES:,} at most"
