"""Read an archive of TorchScript whose code does nothing but compute.

`torch.jit.load` compiles the code of an archive and runs what it finds in ``__setstate__``. So the
code is read before, as text, and every name in it is looked up. Like the code that torch writes,
it must be such as Python's own parser understands.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re
import zipfile

import torch

from xspinn.carriers.content import Buffer
from xspinn.errors import ModelError
from xspinn.models.formats.operators import NAMES
from xspinn.models.formats.zips import read_members

__all__ = ["harmless_script"]

_MEMBERS = re.compile(
    r"[^/]+/(version|byteorder|data\.pkl|constants\.pkl|code/[\w./]+\.py|\.data/\w+"
    r"|(data|constants|tensors)/[\w.-]+)"
)

_CONTAINERS = """
    Bool Complex ComplexImplicit Float FloatImplicit Int IntImplicit ScalarImplicit __contains__
    __derive_index __getitem__ __interpolate __is__ __isnot__ __not__ __range_length
    __round_to_zero_floordiv __upsample _get_tracing_state _infer_size _list_to_tensor _set_item
    _size_if_not_equal _tensor_to_list _unwrap_optional append as_tensor bin broadcast_shapes
    can_cast capitalize center chr clear count cpu cuda data degrees Delete device dict divmod
    element_size endswith extend fabs factorial find floordiv format get get_autocast_dtype
    get_device has_torch_function hash hex index indices insert is_autocast_cpu_enabled
    is_autocast_enabled is_contiguous is_grad_enabled is_leaf is_pinned is_scripting is_sparse items
    join keys layout len list ljust lower lstrip mathremainder modf oct ord partition percentFormat
    pop popitem promote_types radians remove replace requires_grad_ result_type reverse rfind rjust
    rsplit rstrip set_grad_enabled setdefault sorted splitlines startswith storage_offset strip
    tensor title update upper values warn zfill
"""
_TRANSFORMER = """
    _native_multi_head_attention _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned
    _transformer_encoder_layer_fwd to_padded_tensor
"""
_LANGUAGE = frozenset(_CONTAINERS.split() + _TRANSFORMER.split())
"""What TorchScript's lists, texts and dicts are made of, and what `nn.Transformer` calls."""

_PRIMITIVES = """
    NumToTensor RaiseException abs data device dtype enumName enumValue grad is_cpu is_cuda is_meta
    is_mkldnn is_nested is_sparse isinstance itemsize layout max min name requires_grad shape type
    unchecked_unwrap_optional
"""
_PRIM = frozenset(_PRIMITIVES.split())
_PLAIN_LITERAL = re.compile(r"""["'][\w.]*["']""", re.ASCII)


def harmless_script(raw: Buffer, name: str) -> io.BytesIO:
    """Return the archive with nothing in it but code that computes, and its data.

    Parameters
    ----------
    raw : numpy.ndarray
        Bytes of the archive.
    name : str
        For messages.

    Raises
    ------
    ModelError
        If its code uses more than operators that are known to compute.
    """
    if not zipfile.is_zipfile(io.BytesIO(raw.data)):
        raise ValueError("it is no archive of TorchScript")
    held = read_members(raw, name, lambda member: _MEMBERS.fullmatch(member) is not None)
    for member, content in held.items():
        if member.endswith(".py"):
            found = _forbidden(content.decode())
        else:
            found = _class_of_torch(content) if member.endswith(".pkl") else None
        if found:
            raise ModelError(
                f"the archive {name} uses {found!r} in {member!r}, which is none of the operators "
                "that are known to do nothing but compute, and that was not asked for. If you "
                "trust whoever made the file, give as_model(..., allow_pickle=True); else export "
                "the module with torch.export."
            )
    clean = io.BytesIO()
    with zipfile.ZipFile(clean, "w") as new:
        for member, content in held.items():
            new.writestr(member, content)
    clean.seek(0)
    return clean


def _forbidden(text: str) -> str | None:
    """Return a name in the code that may stand for more than arithmetic.

    Names count wherever they stand after a dot, since TorchScript looks up operators of ``aten``
    for whatever a method is called on: ``"path".from_file(...)`` is one of them.
    """
    tree = ast.parse(text)
    inside = {
        id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            space = node.value
            if isinstance(space, ast.Attribute) and _is(space.value, "ops"):
                good = node.attr in _PRIM if space.attr == "prim" else _is_allowed(node.attr)
                found = None if good else f"ops.{space.attr}.{node.attr}"
            elif _is(space, "ops"):  # the name after it is looked at by itself, and must be there
                good = node.attr in ("aten", "prim") and id(node) in inside
                found = None if good else ".".join(["ops", node.attr, inside.get(id(node), "")])
            else:
                found = None if _is_allowed(node.attr) else node.attr
        elif isinstance(node, ast.Name):
            lonely = node.id in ("ops", "torch") and id(node) not in inside
            found = node.id if lonely or node.id.startswith("rpc_") else None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found = _taken(node, text) if node.func.id in ("getattr", "hasattr") else None
        else:
            found = None
        if found:
            return found
    return None


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_allowed(name: str) -> bool:
    """Whether something after a dot is no operator of torch's at all, or one that computes."""
    if name in NAMES or name in _LANGUAGE or (name.endswith("_") and name[:-1] in NAMES):
        return True
    kind = type(torch.ops.aten.add)  # attributes of another kind are Python's own
    return name != "classes" and not isinstance(getattr(torch.ops.aten, name, None), kind)


def _taken(call: ast.Call, text: str) -> str | None:
    """Return what getattr looks up if it is forbidden or not to be read off the text."""
    literal = ast.get_source_segment(text, call.args[1]) if len(call.args) > 1 else None
    if literal is None or not _PLAIN_LITERAL.fullmatch(literal):
        return "getattr"
    return None if _is_allowed(literal[1:-1]) else literal[1:-1]


def _class_of_torch(pickled: bytes) -> str | None:
    """Return a class of a compiled library that unpickling would make."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            return opcode.name
        if opcode.name == "GLOBAL" and ".torch.classes." in f".{argument}.".replace(" ", "."):
            return str(argument).replace(" ", ".")
    return None
