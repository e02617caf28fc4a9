"""What it costs to import xspinn."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "distributed")
"""What nobody should wait for before it is needed."""


def timeraw_import_xspinn() -> str:
    return "import xspinn"


def timeraw_import_xarray() -> str:
    """What xspinn stands on, to compare with."""
    return "import xarray"


def track_heavy_modules() -> int:
    """How many of the heavy modules `import xspinn` brings in."""
    code = f"import sys, xspinn; print(sum(name in sys.modules for name in {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)
