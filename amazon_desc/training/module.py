"""What Lightning trains: a 4-bit base with LoRA, and its loss.

In come batches of DescriptionData, out go the loss of a step, and what a checkpoint keeps of the
model. What happens between backward and optimizer is in stepping.py, how texts are written in
writing.py, how base and tuned weights are scored in validating.py; files, TensorBoard and the
terminal are the callbacks' business.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.model import adapter as adapters
from amazon_desc.model import backbone as bases
from amazon_desc.model.attention import is_packed
from amazon_desc.model.backbone import Quantization
from amazon_desc.model.execution import execute, machine_with
from amazon_desc.model.identity import Identity, check_identity
from amazon_desc.model.loss import target_loss
from amazon_desc.model.overflow import overflows
from amazon_desc.model.plan import Kernels, Plan, Task, plan, task_of
from amazon_desc.model.recomputation import RecomputeOption
from amazon_desc.model.suitability import read_config
from amazon_desc.model.writing_plan import EngineOption
from amazon_desc.support.hub import Backbone, find_adapter, find_backbone
from amazon_desc.support.options import Fraction, NonNegativeInt, PositiveInt
from amazon_desc.training import gradients
from amazon_desc.training.exchange import gathered, refuse_differences
from amazon_desc.training.random_states import drawn_from
from amazon_desc.training.schedule import Schedule, learning_rates, length_of_warmup
from amazon_desc.training.validating import ValidatingModule


class DescriptionModule(ValidatingModule):
    """A frozen base with trainable LoRA.

    Args:
        backbone: the base: a hub id, a folder, or `tiny` (ships with the package)
        revision: commit, tag or branch of a hub id; null: its main branch
        quantization: how the base is kept: in 4 bits (`nf4`, double quantisation) or not (`none`)
        lora: the low-rank matrices that are trained
        adapter: folder or hub id of a trained adapter (ours, PEFT's or TRL's): fit starts from it,
            with its rank, scale and layers; validate, test and predict use it instead of the run's
            own
        optimizer: class and arguments of the optimizer
        schedule: the learning rate after its warm-up: it falls along half a `cosine`, falls
            linearly (`linear`), or stays (`constant`)
        warmup_fraction: share of all steps over which the learning rate rises to its peak
        warmup_steps: the same as a number of steps, which wins over the share; null: the share
            decides. A run of fewer steps ends before the peak
        final_lr_fraction: share of the peak learning rate that it falls to at the end
        decoding: how texts are written
        engine: who writes them: `fused` (our own kernels), `plain` (transformers), or `auto`: fused
            where that is known to be right
        kernels: how training computes: `fused` (our own kernels), `plain` (transformers and PEFT),
            or `auto`: fused where they are known to be right
        recompute: what of the forward pass is recomputed to save memory: `none`, `parts` (what is
            quick to compute), `mlp` (also the MLP's first product), `layers` (the only one that
            `plain` knows), or `auto`: as little as the free memory allows
        max_new_tokens: the name of before of decoding.max_new_tokens
    """

    def __init__(
        self,
        backbone: str = "tiny",
        revision: str | None = None,
        quantization: Quantization = "nf4",
        lora: adapters.LoraSettings = adapters.LoraSettings(),  # noqa: B008 (frozen)
        adapter: str | None = None,
        optimizer: OptimizerCallable = lambda params: AdamW(
            params, lr=2e-4, weight_decay=0.0, fused=True
        ),
        schedule: Schedule = "cosine",
        warmup_fraction: Fraction = 0.03,
        warmup_steps: NonNegativeInt | None = None,
        final_lr_fraction: Fraction = 0.1,
        decoding: DecodingSettings = DecodingSettings(),  # noqa: B008 (frozen)
        engine: EngineOption = "auto",
        kernels: Kernels = "auto",
        recompute: RecomputeOption = "auto",
        max_new_tokens: PositiveInt | None = None,
    ) -> None:
        super().__init__(decoding, engine)
        self.backbone = backbone
        self.revision = revision
        self.quantization: Quantization = quantization
        self.lora = lora
        self.adapter = adapter
        self.optimizer = optimizer
        self.schedule: Schedule = schedule
        self.warmup_fraction = warmup_fraction
        self.warmup_steps = warmup_steps
        self.final_lr_fraction = final_lr_fraction
        self.kernels: Kernels = kernels
        self.recompute: RecomputeOption = recompute
        self.plan: Plan | None = None  # of a fit; made when it starts, where nobody made it before
        # A checkpoint holds LoRA only; on_load_checkpoint compares the names itself.
        self.strict_loading = False
        self.network: Any = None  # a PeftModel, once configure_model has built it
        self.settings: dict[str, Any] = {}  # what decides this run, as its checkpoints record it

    # Building

    def configure_model(self) -> None:
        """Loads the base and attaches LoRA: the adapter of `self.adapter`, or an untrained one.

        Raises:
            UserError: it is no longer the base that `identity` names.
        """
        if self.network is not None:
            return
        wanted, base = self.fingerprints, find_backbone(self.backbone, self.revision)
        model = bases.load_backbone(base, self.quantization, self.compute_dtype, self.device)
        bases.refuse_replaced(base, wanted)
        if self.adapter_folder is not None:
            self.network = adapters.load(model, self.adapter_folder, self.lora.dropout)
        else:
            self.network = adapters.attach(model, self.lora)
        self.train()

    @cached_property
    def base(self) -> Backbone:
        return find_backbone(self.backbone, self.revision)

    @cached_property
    def fingerprints(self) -> bases.Fingerprints:
        """Of the base's files as they were first read: what replaces them later is not trained."""
        return bases.fingerprints(self.base.folder)

    @property
    def card_dtype(self) -> torch.dtype:
        """What programs without this package should compute in, where float16 would overflow."""
        whole = self.network.get_base_model().config if self.network else read_config(self.base)
        is_too_small = overflows(whole.get_text_config(decoder=True), self.compute_dtype)
        return torch.float32 if is_too_small else self.compute_dtype

    @property
    def adapter_folder(self) -> Path | None:
        """The folder of `self.adapter`, which is fetched where that is a hub id."""
        return None if self.adapter is None else find_adapter(self.adapter)

    def use_adapter(self, folder: Path) -> None:
        """Has the next command load base and adapter from their files, as a new process would."""
        self.adapter, self.network, self.fused = str(folder), None, None

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        num_steps = int(self.trainer.estimated_stepping_batches)
        num_warmup = length_of_warmup(num_steps, self.warmup_fraction, self.warmup_steps)
        rates = learning_rates(
            optimizer, self.schedule, num_steps, num_warmup, self.final_lr_fraction
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": rates, "interval": "step"},
        }

    # Training

    def setup(self, stage: str) -> None:
        """Has all processes take as many rows at a time: as many as fit into the least memory."""
        data, trainer = self.data, self.trainer
        if stage == "fit" and (num_rows := min(gathered(data.batch_size))) != data.batch_size:
            before = trainer.accumulate_grad_batches
            accumulated = data.rows_per_step // (num_rows * data.share.world_size)
            trainer.accumulate_grad_batches = accumulated
            if isinstance(trainer.val_check_interval, int):
                trainer.val_check_interval = trainer.val_check_interval // before * accumulated
            data.batch_size, self.plan = num_rows, None

    def on_fit_start(self) -> None:
        """Makes ready to train as planned: before any validation, which is scored that way too."""
        refuse_differences(
            {
                "prepared data": self.data.opened.fingerprint,
                "rows trained on": self.data.num_trained_rows,
                **self.settings,
            }
        )
        if self.plan is None:
            task = self.task
            self.plan = plan(task, machine_with(task, self.device), self.data.batch_size)
        self.fused = execute(self.plan, self.network, self.data.max_seq_length)

    @property
    def task(self) -> Task:
        data = self.data
        unpacked_tokens = 0 if is_packed(self.network.config) else data.max_seq_length
        options = (self.quantization, self.kernels, self.recompute, unpacked_tokens)
        return task_of(self.network, self.compute_dtype, data.row_tokens, *options)

    def training_step(self, batch: RowBatch, batch_idx: int) -> Tensor:
        """Returns the summed loss over a constant; the optimizer step divides by the targets.

        Micro-batches hold different numbers of targets, so the mean of their means would be wrong.
        The constant only keeps the numbers small enough for float16.
        """
        if self.fused is not None and not self.accumulation.micro_batches:
            self.fused.begin()
        if not len(batch.input_ids):  # other processes have the last rows
            loss_sum, num_targets = self.no_loss(), 0
        elif self.fused is not None:
            loss_sum, num_targets = self.fused.loss(batch, self.data.dropout_seed)
        else:
            with drawn_from(self.data.dropout_seed, self.device):
                loss_sum, num_targets = target_loss(self.network, batch)
        self.trained_on(loss_sum, num_targets)
        return loss_sum / self.data.row_tokens

    def no_loss(self) -> Tensor:
        """Returns 0, with gradients of 0 to come."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.stack([(0 * p).sum() for p in trained]).sum()

    def gradients(self, optimizer: Optimizer) -> list[Tensor]:
        """Returns those of the fused path in one piece: faster than hundreds of small ones."""
        return super().gradients(optimizer) if self.fused is None else [self.fused.gradients]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Keeps gradients where they are for the fused path, which adds to them."""
        if self.fused is None:
            optimizer.zero_grad()
        else:
            gradients.zero(self.gradients(optimizer))

    # What a checkpoint keeps

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # pyright: ignore
        """Returns the LoRA matrices: the base is found by its name, and checked by its bytes."""
        return adapters.trainable_state(self)

    def identity(self, data: DescriptionData) -> Identity:
        """Returns what must be the same wherever these LoRA matrices are used."""
        prompter = data.encoder.prompter
        return Identity(
            backbone=self.base.name,
            revision=self.base.revision,
            base_sha256=self.fingerprints.weights,
            quantization=self.quantization,
            template=data.settings.prompt.template,
            is_chat=prompter.is_chat,
            system=data.settings.prompt.system,
            base_files=self.fingerprints.files,
            frame=list(prompter.frame) if prompter.is_chat else None,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["identity"] = self.identity(self.data).as_dict()
        checkpoint["settings"] = self.settings
        checkpoint["precision"] = str(self.trainer.precision)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_identity(checkpoint.get("identity"), self.identity(self.data), "the checkpoint")
        adapters.check_shapes(checkpoint["state_dict"], self.state_dict())
        super().on_load_checkpoint(checkpoint)
