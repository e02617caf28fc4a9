"""Look through what notebooks printed when they ran: ``check_outputs.py FOLDER``.

A page should show neither what was written to stderr, nor a warning, nor a folder of the machine
that built it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parent.parent

OWN = (ROOT, Path.home(), tempfile.gettempdir(), sys.prefix)
UNWANTED = {
    "a warning": re.compile(r"\b\w*Warning\b"),
    "a path of this machine": re.compile(
        # Not after a letter or a dot, where a URL or a relative path goes on.
        r"(?<![\w.:/])(?:" + "|".join(re.escape(str(path)) for path in OWN) + r")(?=[/\s'\"]|$)"
        r"|(?<![\w.:/])/(?:home|root|tmp|Users|private|var/folders)/[\w.-]+"
        r"|\b[A-Z]:\\\\?Users\b",
        re.MULTILINE,
    ),
}


def texts(output: Any) -> Iterator[str]:
    """Give each text that an output shows, whatever its kind."""
    if output.output_type == "stream":
        yield output.text
    elif output.output_type == "error":
        yield "\n".join(output.traceback)
    else:
        yield from (str(data) for kind, data in output.data.items() if kind.startswith("text/"))


def faults(path: Path) -> Iterator[str]:
    """Say what a notebook shows and should not, one line each."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", ()):
            where = f"{path.name}, cell {cell.get('id')!r}"
            if output.get("name") == "stderr":
                yield f"{where} writes to stderr: {output.text.strip()}"
            for text in texts(output):
                for what, pattern in UNWANTED.items():
                    if found := pattern.search(text):
                        line = text[max(found.start() - 60, 0) : found.end() + 60].strip()
                        yield f"{where} shows {what}: {line}"


def main(folder: str) -> None:
    """Look through all notebooks in a folder; end in an error that lists what is wrong."""
    paths = sorted(Path(folder).rglob("*.ipynb"))
    if not paths:
        sys.exit(f"{folder} holds no notebooks that have run")
    found = [fault for path in paths for fault in faults(path)]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main(sys.argv[1])
