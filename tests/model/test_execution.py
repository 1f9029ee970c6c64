"""What was planned is carried out."""

import torch

from amazon_desc.model.execution import execute, machine_with
from amazon_desc.model.loss import target_loss
from amazon_desc.model.plan import plan, task_of
from tests.model.conftest import EXAMPLES, batch_of, llama


def test_the_plain_path_recomputes_whole_layers_with_the_same_gradients():
    found = []
    for recompute in ("none", "layers"):
        torch.manual_seed(0)
        model = llama(dropout=0.0, vocab_size=1000).train()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
        calls: list[int] = []
        layer = model.get_base_model().model.layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        task = task_of(model, torch.float32, 64, "none", "auto", recompute)
        found_plan = plan(task, machine_with(task, torch.device("cpu")), 1)
        recomputed = "; layers recomputed" if recompute == "layers" else ""
        assert str(found_plan) == f"Kernels: plain: the device is cpu, not cuda{recomputed}."
        assert execute(found_plan, model, longest=64) is None
        target_loss(model, batch_of(EXAMPLES, row_tokens=64))[0].backward()
        assert len(calls) == (2 if recompute == "layers" else 1)
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    assert len(found[0]) == len(found[1]) == 2 * 7 * 2
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
