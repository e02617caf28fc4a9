"""Run code in a process of its own."""

import os
import subprocess
import sys
import textwrap


def python(code: str, **env: str) -> str:
    """Run code in a new Python, with more variables of the environment; return what it prints.

    One that hangs is killed, so that it does not outlive the test.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
