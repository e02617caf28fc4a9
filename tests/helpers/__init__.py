"""What tests share: networks, cases, brute force, clusters, files of every format."""

from pathlib import Path

TESTS = str(Path(__file__).parent.parent)
"""Where other processes find this package."""
