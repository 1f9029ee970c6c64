"""A plan, carried out: the fused step of kernels/, or transformers' and PEFT's own layers.

In come a plan and the loaded model that it was made for, out goes a FusedStep, or None where the
model's own forward pass trains. What to do is decided in plan.py, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from amazon_desc.model.families import logit_cap_of, logit_scale_of
from amazon_desc.model.machine import Machine, machine_of
from amazon_desc.model.plan import Plan, Task, bytes_loaded

if TYPE_CHECKING:
    from peft import PeftModel

    from amazon_desc.model.kernels.step import FusedStep


def execute(plan: Plan, model: PeftModel, longest: int) -> FusedStep | None:
    """Makes a model ready to be trained as planned.

    Args:
        longest: no example has more tokens
    """
    if plan.is_fused:
        return fused_step(plan, model, longest)
    if plan.recompute == "layers":  # in transformers 5.17 it has its older name
        base: Any = model.get_base_model()
        is_old = not hasattr(base, "activation_checkpointing_enable")
        name = f"{'gradient' if is_old else 'activation'}_checkpointing_enable"
        getattr(base, name)({"use_reentrant": False})
    return None


def fused_step(plan: Plan, model: PeftModel, longest: int) -> FusedStep:
    from amazon_desc.model.kernels import from_peft
    from amazon_desc.model.kernels.step import FusedStep

    base: Any = model.get_base_model()
    head = base.get_output_embeddings().weight.detach()
    cap, scale = logit_cap_of(base.config), logit_scale_of(base.config)
    seed = torch.zeros((), dtype=torch.int64, device=head.device)
    how = (plan.is_dense, plan.recompute)
    decoder = from_peft.collect(model, plan.task.dtype, seed, longest, *how)
    trained = {
        id(p) for linear in decoder.linears() for q in linear.projections for p in (q.a, q.b)
    }
    left_out = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in trained]
    assert not left_out, f"{left_out[:3]} would get no gradient"
    return FusedStep(decoder, head, cap, scale, seed, captures=True)


def machine_with(task: Task, device: torch.device) -> Machine:
    """Returns what this machine has for a task whose base is loaded already."""
    return machine_of(device, task.dtype, bytes_loaded(task))
