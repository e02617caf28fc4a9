"""Change the code a little, one place at a time, and see whether any test fails.

    python tests/mutation.py xspinn/geometry xspinn/plans xspinn/block

The changes are those of cosmic-ray that `pyproject.toml` names, and a few of our own. cosmic-ray
itself starts a process for each change, which would spend its time importing torch. Here each is
tried in a fork: of a process that has imported all and collected the tests, where a change lies
inside functions, whose code is replaced; else, as for constants, of one that has yet to import
xspinn. What was tried is written to .mutation/tried.jsonl, and not tried again: remove the file
when tests have changed.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import gc
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]
RECORD = ROOT / ".mutation" / "tried.jsonl"
IMPORTED_ONCE = ("torch", "xarray", "dask.array", "distributed", "zarr", "pytest")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")

SWAPS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "maximum": "minimum",
    "amax": "amin", "argmax": "argmin", "rint": "floor", "round": "int", "ceil": "floor",
    "floor": "ceil", "left": "right", "right": "left",
}  # fmt: skip
"""Names, and texts that are nothing else, which cosmic-ray leaves alone."""


# -- changes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change: the module's file, its text with the change, and where and what it is."""

    file: str
    code: str
    line: int
    was: str
    became: str

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.file} {self.code}".encode()).hexdigest()[:20]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}\n    - {self.was}\n    + {self.became}"


def mutants(file: Path) -> Iterator[Mutant]:
    """All changes of one module that are still Python, and are not in its texts."""
    code, seen = file.read_text(), set()
    for changed in [*_of_cosmic_ray(code), *_swapped(code)]:
        lines = zip(code.splitlines(), changed.splitlines(), strict=False)
        line, (was, became) = next((n, p) for n, p in enumerate(lines, 1) if p[0] != p[1])
        with contextlib.suppress(SyntaxError):
            compile(changed, str(file), "exec")
            if changed not in seen and not was.strip().startswith("@"):  # sizes of caches and such
                name = str(file.relative_to(ROOT))
                yield Mutant(name, changed, line, was.strip(), became.strip())
            seen.add(changed)


def _of_cosmic_ray(code: str) -> Iterator[str]:
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(code)))
    for name in operator_names():
        if not any(fnmatch.fnmatch(name, f"core/{pattern}") for pattern in CONFIG["operators"]):
            continue
        operator = get_operator(name)()
        places = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        for occurrence in range(places):
            changed = mutate_code(code, operator, occurrence)
            if changed and changed != code:
                yield changed


def _swapped(code: str) -> Iterator[str]:
    from cosmic_ray.ast import ast_nodes, get_ast

    for leaf in ast_nodes(get_ast(code)):
        bare = getattr(leaf, "value", "").strip("\"'")
        if leaf.type in ("name", "string") and bare in SWAPS:
            offset = sum(len(line) for line in code.splitlines(keepends=True)[: leaf.line - 1])
            at = offset + leaf.column
            new = leaf.value.replace(bare, SWAPS[bare])
            yield code[:at] + new + code[at + len(leaf.value) :]


# -- making them -------------------------------------------------------------------------------


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module with the change."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = mutant.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self.mutant.file)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(ROOT / self.mutant.file)
        exec(compile(self.mutant.code, module.__file__, "exec"), module.__dict__)


def functions_of(code: str, file: str) -> tuple[list[Any], dict[str, CodeType]]:
    """What a module does when it is imported, and the code of its functions by name."""
    body: list[Any] = []
    found: dict[str, CodeType] = {}

    def walk(code: CodeType) -> None:
        body.append((code.co_code, code.co_names))
        for const in code.co_consts:
            if not isinstance(const, CodeType):
                body.append((type(const), const))
            elif const.co_flags & 0x02:  # CO_NEWLOCALS: a function, and not the body of a class
                found[const.co_qualname] = const
            else:
                walk(const)

    walk(compile(code, file, "exec"))
    return body, found


def is_inside(mutant: Mutant) -> bool:
    """Whether only the code of functions changes."""
    before = functions_of((ROOT / mutant.file).read_text(), mutant.file)
    after = functions_of(mutant.code, mutant.file)
    return before[0] == after[0] and before[1].keys() == after[1].keys()


def replace(mutant: Mutant) -> None:
    """Change the functions of a module that was imported before."""
    file = str(ROOT / mutant.file)
    functions = functions_of(mutant.code, file)[1]
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and found.__code__.co_filename == file:
            new = functions.get(found.__code__.co_qualname)
            if new is not None:
                found.__code__ = new


# -- trying them -------------------------------------------------------------------------------


def forked(work: Callable[[], int]) -> int:
    """Do some work in a fork, whose exit code is what it returns."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        sink = os.open(ROOT / ".mutation" / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        code = work()
    except Exception:  # noqa: BLE001 - whatever a change leads to
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def passed(child: int, deadline: float) -> bool | None:
    """Whether the tests have passed; None while they run. Those that run for ever have failed."""
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        return os.waitstatus_to_exitcode(status) == 0
    if time.monotonic() < deadline:
        return None
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def try_all(work: Iterable[Mutant], run: Callable[[Mutant | None], int], jobs: int) -> None:
    """Try all, so many at a time, and write down which survive."""
    begin = time.monotonic()
    if os.waitpid(forked(lambda: run(None)), 0)[1]:
        raise SystemExit(f"the tests fail by themselves: see {ROOT / '.mutation' / 'log'}")
    limit = 30 + 5 * (time.monotonic() - begin)
    work, running = iter(work), dict[int, tuple[Mutant, float]]()
    while True:
        while len(running) < jobs and (mutant := next(work, None)):
            child = forked(functools.partial(run, mutant))
            running[child] = mutant, time.monotonic() + limit
        if not running:
            return
        for child, (mutant, deadline) in list(running.items()):
            survived = passed(child, deadline)
            if survived is not None:
                del running[child]
                with RECORD.open("a") as file:
                    file.write(json.dumps([mutant.key, survived]) + "\n")
                say(f"survived: {mutant}" if survived else f"killed: {mutant.file}:{mutant.line}")
        time.sleep(0.01)


class Loop:
    """In place of pytest's own loop: its tests, for each mutant, in a fork."""

    def __init__(self, work: Iterable[Mutant], jobs: int) -> None:
        self.work, self.jobs = work, jobs

    def pytest_runtestloop(self, session: Any) -> bool:
        def run(mutant: Mutant | None) -> int:
            if mutant is not None:
                replace(mutant)
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    return 1
            return 0

        try_all(self.work, run, self.jobs)
        return True


def try_folder(work: list[Mutant], tests: list[str], jobs: int) -> None:
    """Try the changes of the modules of a folder."""
    import pytest

    def imported(mutant: Mutant | None) -> int:
        if mutant is not None:
            sys.meta_path.insert(0, Finder(mutant))
        return int(pytest.main([*OPTIONS, *tests]))

    inside = [mutant for mutant in work if is_inside(mutant)]
    outside = [mutant for mutant in work if mutant not in inside]
    if outside:
        try_all(outside, imported, jobs)
    if inside:
        child = os.fork()
        if not child:
            os._exit(int(pytest.main([*OPTIONS, "-s", *tests], [Loop(inside, jobs)])))
        os.waitpid(child, 0)


def read_record() -> dict[str, bool]:
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return dict(map(json.loads, lines))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", type=Path, default=list(map(Path, CONFIG["tests"])))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=1, help="try one change of so many")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ |= {"HYPOTHESIS_PROFILE": "mutation", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    RECORD.parent.mkdir(exist_ok=True)
    rows = []
    for path in options.paths:
        known = read_record()
        files = [path] if path.suffix else sorted(path.glob("*.py"))
        made = {file: [*mutants(file.resolve())][:: options.every] for file in files}
        work = [m for file in files for m in made[file] if m.key not in known]
        folder = path.parent if path.suffix else path
        try_folder(work, CONFIG["tests"][folder.as_posix()], options.jobs)
        rows += made.items()
    known = read_record()
    alive = [[m for m in found if known.get(m.key)] for _, found in rows]
    for (file, found), left in zip(rows, alive, strict=True):
        say(f"{file!s:32} {len(found):5} changes, {len(left):4} survive")
    total, n_alive = sum(len(found) for _, found in rows), sum(map(len, alive))
    say(f"all: {n_alive} of {total} survive, {n_alive / max(1, total):.1%}\n")
    say("\n".join(str(mutant) for survivors in alive for mutant in survivors))


if __name__ == "__main__":
    main()
