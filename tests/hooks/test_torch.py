"""Private parts of torch that are used are there, and do what they are used for."""

import pytest
import torch

from xspinn.hooks import torch as hooks


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_torch_says_what_the_cpu_computes_in(precision):
    name = hooks._QUESTIONS[precision]
    assert hasattr(torch.ops.mkldnn, name), f"torch.ops.mkldnn.{name} is gone; see xspinn.hooks"
    assert hooks.cpu_computes_in(precision) is getattr(torch.ops.mkldnn, name)()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it first compiles
def test_compiled_modules_hold_what_they_were_made_from():
    module = torch.nn.Linear(1, 1)
    compiled = torch.compile(module)
    assert hasattr(compiled, "_orig_mod"), "_orig_mod is gone; see xspinn.hooks.torch"
    assert hooks.uncompiled(compiled) is module
    assert hooks.uncompiled(module) is module
