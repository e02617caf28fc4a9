"""Run code in a process of its own."""

import os
import subprocess
import sys
import textwrap


def python(code: str, **env: str) -> str:
    """Run code in a new Python, with more variables of the environment; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
