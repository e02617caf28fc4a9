"""Read an archive of `torch.export` without running code from it.

`torch.export.load` unpickles what it finds, evaluates expressions, runs guards, imports what nodes
name, and opens compiled libraries. So what is loaded is a new archive that holds only members and
words of the old one that are known to be harmless.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from typing import Any

import numpy as np
import torch

from xspinn.carriers.content import Buffer
from xspinn.errors import ModelError
from xspinn.models.formats.operators import refused
from xspinn.models.formats.zips import check_zip, read_members

__all__ = ["harmless"]

# From torch 2.8, below a folder with the name of the model, and before.
_MEMBERS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|models/[\w.-]+\.json"
    r"|data/(weights|constants)/[\w.-]+|data/sample_inputs/[\w.-]+\.pt)"
    r"|version|serialized_\w+\.(json|pt)"
)
_RUN = re.compile(r"aotinductor|\.so$|\.pkl$", re.IGNORECASE)
# All words but those below become names in the source code that torch makes of a program.
_NAME = re.compile(r"[\w.+ -]*", re.ASCII)
_DUNDER = re.compile(r"\b__\w+__\b")
_TEXTS = {"as_string", "as_strings"}  # constants, which are only ever quoted

_OPERATOR = re.compile(r"torch\.ops\.(?!higher_order\.)(\w+)\.(\w+)\.(\w+)", re.ASCII)
# No function that calls what it is given, but for those that are given parts of the program.
_FUNCTION = re.compile(
    r"torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_(set_grad_enabled|autocast))"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_"
    r"|not_|xor|getitem|lshift|rshift)"
    r"|math\.[a-z]\w*|torch\._?sym_\w+|"
)
_SPECS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}

# What torch and sympy write sizes with.
_WORDS = """
    Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs Eq Ne Lt Le Gt Ge And Or Not floor
    ceiling Piecewise max min FloorDiv CleanDiv CeilDiv PythonMod ModularIndexing Identity
    GreaterThan LessThan StrictGreaterThan StrictLessThan Equality Unequality
    TruncToInt CeilToInt FloorToInt Where PowByNatural LShift RShift IntTrueDiv FloatTrueDiv
"""
_CALLS = frozenset(_WORDS.split())
_NODES = (
    *(ast.Expression, ast.Load, ast.keyword, ast.Tuple),
    *(ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator, ast.Compare, ast.cmpop),
    *(ast.BoolOp, ast.boolop),
)


def harmless(raw: Buffer, name: str) -> io.BytesIO:
    """Return the archive with nothing in it that runs code.

    Parameters
    ----------
    raw : numpy.ndarray
        Bytes of the archive.
    name : str
        For messages.

    Raises
    ------
    ModelError
        If it needs to run code to be loaded; names the member.
    """
    kept = read_members(raw, name, lambda member: _is_kept(member, name))
    pickled = {member for member in kept if member.endswith(".pt")}
    for member in [member for member in kept if re.search(r"/data/.*\.json$", member)]:
        pickled |= _pickled(kept[member], member, name)
    for member in pickled & kept.keys():
        _check_tensors(kept[member], member, name)
    clean = io.BytesIO()
    with zipfile.ZipFile(clean, "w") as new:
        for member, held in kept.items():
            is_program = member.endswith(".json") and "/data/" not in member
            new.writestr(member, _program(held, member, name) if is_program else held)
    clean.seek(0)
    return clean


def _is_kept(member: str, name: str) -> bool:
    if _RUN.search(member):
        raise ModelError(_refusal(name, member))
    return _MEMBERS.fullmatch(member) is not None


def _pickled(raw: bytes, member: str, name: str) -> set[str]:
    """Return the members that a list of weights or constants says are pickles."""
    folder = member.rpartition("/")[0]
    found = set()
    for entry in json.loads(raw)["config"].values():
        path = f"{folder}/{entry['path_name']}"
        if entry["path_name"].startswith(("custom_obj", "opaque_obj")):
            raise ModelError(_refusal(name, path))
        if entry["use_pickle"]:
            found.add(path)
    return found


def _check_tensors(raw: bytes, member: str, name: str) -> None:
    if not raw:
        return
    check_zip(np.frombuffer(raw, np.uint8), f"{name}: {member}")
    try:
        torch.load(io.BytesIO(raw), map_location="meta", weights_only=True)
    except Exception as error:
        raise ModelError(_refusal(name, member)) from error


def _program(raw: bytes, member: str, name: str) -> bytes:
    """Return a program without what only debuggers read, every word of it checked."""
    program = json.loads(raw)
    _check(program, "", member, name)
    return json.dumps(program).encode()


def _check(value: Any, key: str, member: str, name: str) -> None:
    """Check all that torch evaluates, runs, imports or turns into source code."""
    if isinstance(value, dict):
        if "metadata" in value:
            value["metadata"] = {}  # where a node came from, found by importing
        for inner, item in value.items():
            _check(item, inner, member, name)
            if not (_is_expression(inner) if key == "range_constraints" else _is_name(inner)):
                raise ModelError(_refusal(name, f"{member}: {inner}"))
    elif isinstance(value, list):
        for item in value:
            _check(item, key, member, name)
    elif isinstance(value, str):
        operator = _OPERATOR.fullmatch(value) if key in ("target", "as_operator") else None
        if operator and (why := refused(*operator.groups())):
            raise ModelError(_forbidden(name, value, why))
        if not operator and not _allowed(key, value):
            raise ModelError(_refusal(name, f"{member}: {value}"))


def _allowed(key: str, value: str) -> bool:
    if key == "expr_str":
        return _is_expression(value)
    if key == "guards_code":
        return _is_expression(value, guard=True)
    if key in ("target", "as_operator"):
        return _FUNCTION.fullmatch(value) is not None and "__" not in value
    if key in ("in_spec", "out_spec"):
        return _is_plain(json.loads(value), names=key == "in_spec")
    return key in _TEXTS or _is_name(value)


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and _DUNDER.search(text) is None


def _is_plain(spec: Any, *, names: bool) -> bool:
    """Whether containers of in- and outputs are plain ones, which torch need not import."""
    if isinstance(spec, list):
        return all(_is_plain(item, names=names) for item in spec)
    if isinstance(spec, dict):
        keys = json.loads(spec.get("context") or "null") or []
        return (
            spec.get("type") in _SPECS
            # Keys of inputs become names of arguments in source code.
            and (not names or all(_is_name(str(key)) for key in keys))
            and _is_plain(spec.get("children_spec", []), names=names)
        )
    return isinstance(spec, int | None)


def _is_expression(text: str, *, guard: bool = False) -> bool:
    """Whether it is arithmetic on sizes, without any way to reach something else."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    known: set[int] = set()  # names and texts whose place makes them harmless
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            known.add(id(node.func))
            if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
                known |= _texts(node)
            elif not (guard and _is_size(node.func)):
                return False
        elif guard and isinstance(node, ast.Subscript):
            known.add(id(node.slice) if isinstance(node.slice, ast.Constant) else 0)
        elif guard and isinstance(node, ast.Attribute):
            if not _is_size(node):
                return False
        elif isinstance(node, ast.Name):
            if id(node) not in known and not re.fullmatch(r"[A-Za-z]\w*", node.id):
                return False
        elif isinstance(node, ast.Constant):
            if id(node) not in known and not isinstance(node.value, int | float):
                return False
        elif not isinstance(node, _NODES):
            return False
    return True


def _texts(call: ast.Call) -> set[int]:
    """Return the text that names a symbol, or writes a number out; sympy would evaluate others."""
    first = call.args[0] if call.args else None
    assert isinstance(call.func, ast.Name)
    if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
        return set()
    forms = {"Symbol": r"[A-Za-z]\w*", "Float": r"[-+.\deE]+", "Integer": r"[-+\d]+"}
    form = forms.get(call.func.id)
    return {id(first)} if form and re.fullmatch(form, first.value) else set()


def _is_size(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("size", "shape", "stride")


def _refusal(name: str, what: str) -> str:
    return (
        f"the archive {name} holds {what!r}, which runs code when it is loaded, and this was not "
        "asked for. If you trust whoever made the file, give as_model(..., allow_pickle=True); "
        "else export the model again with tensors as its example inputs."
    )


def _forbidden(name: str, operator: str, why: str) -> str:
    return (
        f"the archive {name} uses {operator!r}, which {why}, and that was not asked for. If you "
        "trust whoever made the file, give as_model(..., allow_pickle=True); else export the "
        "model again with torch's own operators."
    )
