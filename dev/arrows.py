"""Show the folders of xspinn, what each holds, and who imports whom.

Two tables: each folder with its purpose (the first line of its docstring), its files, their lines
and the longest; and how many imports lead from one folder to another, those under TYPE_CHECKING
and inside functions too. Fails where folders or modules import each other in a circle.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "xspinn"


def folder_of(module: str) -> str:
    """Name the folder, or the file beside the folders, that a module belongs to."""
    return module.split(".")[1] if "." in module else PACKAGE


def purpose(path: Path) -> str:
    """Return the first line of the docstring of a file, or of a folder's `__init__`."""
    file = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(file.read_text()))
    return text.splitlines()[0] if text else ""


def print_folders(order: list[str]) -> None:
    """Print one line for each folder, and for each file that stands beside them."""
    print(f"{'folder':12}{'files':>6}{'lines':>7}  {'longest':27} purpose")
    for name in order:
        path = ROOT / PACKAGE / name
        label = f"{name}/" if path.is_dir() else name
        path = path if path.is_dir() else path.with_suffix(".py")
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        lines = {file: len(file.read_text().splitlines()) for file in files}
        longest = max(files, key=lambda file: lines[file])
        where = longest.relative_to(path if path.is_dir() else path.parent).as_posix()
        print(
            f"{label:12}{len(files):>6}{sum(lines.values()):>7}"
            f"  {f'{where} ({lines[longest]})':27} {purpose(path)}"
        )


def print_arrows(arrows: Counter[tuple[str, str]], order: list[str]) -> None:
    """Print, for each folder, what it imports, with the number of imports."""
    for name in order:
        to = {b: n for (a, b), n in arrows.items() if a == name}
        targets = ", ".join(f"{b} {to[b]}" for b in order if b in to)
        print(f"{name:12} -> {targets or '(nothing)'}")
    print(f"{len(arrows)} arrows, {sum(arrows.values())} imports")


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Name some that import each other in a circle; an empty list where none do."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def main() -> None:
    """Print both tables, from the faces down, and end in an error where there is a circle."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    # The package's own file only gathers what is public.
    modules = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    del modules[PACKAGE]

    arrows: Counter[tuple[str, str]] = Counter()
    folders: dict[str, set[str]] = {folder_of(module): set() for module in modules}
    for module, imported in modules.items():
        for other in imported - {PACKAGE}:
            a, b = folder_of(module), folder_of(other)
            if a != b:
                arrows[a, b] += 1
                folders[a].add(b)

    found = circle(folders)
    order = sorted(folders) if found else [*TopologicalSorter(folders).static_order()][::-1]
    print_folders(order)
    print()
    print_arrows(arrows, order)
    if found := found or circle(modules):
        sys.exit(f"these import each other in a circle: {' <- '.join(found)}")
    print("no folders and no modules import each other in a circle")


if __name__ == "__main__":
    main()
