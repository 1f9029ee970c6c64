"""What Lightning trains: a 4-bit base with LoRA, its loss and its scores.

In come batches of DescriptionData, out go the loss of a step, the scores of base and tuned weights
(loss, perplexity, ROUGE, BLEU), predictions, and what a checkpoint keeps of the model. On a GPU an
ordinary step waits for nothing. Files, TensorBoard and the terminal are the callbacks' business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from amazon_desc.data.batches import PromptBatch, RowBatch
from amazon_desc.data.datamodule import ROWS, DescriptionData
from amazon_desc.errors import NotFiniteError, UserError
from amazon_desc.evaluation.report import Sample
from amazon_desc.evaluation.scores import TargetLoss, TextScores
from amazon_desc.generation.describe import Description, describe
from amazon_desc.hub import find_backbone
from amazon_desc.identity import Identity, check_identity
from amazon_desc.model import adapter as adapters
from amazon_desc.model.backbone import Quantization, fingerprint, load_backbone
from amazon_desc.model.finite import Step, Steps, leaves_steps_out, on_the_host
from amazon_desc.model.loss import target_loss
from amazon_desc.model.paths import Kernels, choose_path
from amazon_desc.model.schedule import warmup_cosine
from amazon_desc.model.window import Window
from amazon_desc.options import Fraction, PositiveInt

if TYPE_CHECKING:
    from amazon_desc.model.kernels.step import FusedStep

Weights = Literal["base", "tuned"]


class Prediction(NamedTuple):
    """A title as it was read, and what was written for it."""

    title: str
    description: Description


class DescriptionModule(L.LightningModule):
    """A frozen base with trainable LoRA.

    Args:
        backbone: the base: a hub id, a folder, or `tiny` (ships with the package)
        revision: commit, tag or branch of a hub id; null: its main branch
        quantization: how the base is kept: in 4 bits (`nf4`, double quantisation) or not (`none`)
        lora: the low-rank matrices that are trained
        adapter: folder of a trained adapter (ours, PEFT's or TRL's): fit starts from it, with its
            rank, scale and layers; validate, test and predict use it instead of the run's own
        optimizer: class and arguments of the optimizer
        warmup_fraction: share of all steps over which the learning rate rises to its peak
        final_lr_fraction: share of the peak learning rate that remains at the last step
        max_new_tokens: most tokens that are written for a title
        kernels: how training computes: `fused` (our own kernels), `plain` (transformers and PEFT),
            or `auto`: fused where they are known to be right
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
        warmup_fraction: Fraction = 0.03,
        final_lr_fraction: Fraction = 0.1,
        max_new_tokens: PositiveInt = 128,
        kernels: Kernels = "auto",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.revision = revision
        self.quantization: Quantization = quantization
        self.lora = lora
        self.adapter = adapter
        self.optimizer = optimizer
        self.warmup_fraction = warmup_fraction
        self.final_lr_fraction = final_lr_fraction
        self.max_new_tokens = max_new_tokens
        self.kernels: Kernels = kernels
        self.fused: FusedStep | None = None  # chosen when a fit starts
        # A checkpoint holds LoRA only; on_load_checkpoint compares the names itself.
        self.strict_loading = False
        self.network: Any = None  # a PeftModel, once configure_model has built it
        both: tuple[Weights, Weights] = ("base", "tuned")
        self.losses: Any = nn.ModuleDict({weights: TargetLoss() for weights in both})
        self.texts: Any = nn.ModuleDict({weights: TextScores() for weights in both})
        self.samples: list[Sample] = []
        self.settings: dict[str, Any] = {}  # what decides this run, as its checkpoints record it
        self.window = Window()
        self.steps = Steps()
        self.step: Step | None = None  # what the present micro-batch completed
        self.step_settings: dict[str, float] = {}

    @property
    def data(self) -> DescriptionData:
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(data, DescriptionData)
        return data

    # Building

    def configure_model(self) -> None:
        """Loads the base and attaches LoRA: the adapter of `self.adapter`, or an untrained one."""
        if self.network is not None:
            return
        base = find_backbone(self.backbone, self.revision)
        model = load_backbone(base, self.quantization, self.compute_dtype, self.device)
        if self.adapter is not None:
            self.network = adapters.load(model, Path(self.adapter), self.lora.dropout)
        else:
            self.network = adapters.attach(model, self.lora)
        self.train()

    def use_adapter(self, folder: Path) -> None:
        """Has the next command load base and adapter from their files, as a new process would."""
        self.adapter, self.network, self.fused = str(folder), None, None

    @property
    def compute_dtype(self) -> torch.dtype:
        precision = str(self.trainer.precision)
        if precision.startswith("bf16"):
            return torch.bfloat16
        return torch.float16 if precision.startswith("16") else torch.float32

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        num_steps = int(self.trainer.estimated_stepping_batches)

        def share_of_peak(step: int) -> float:
            return warmup_cosine(step, num_steps, self.warmup_fraction, self.final_lr_fraction)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # Training

    def choose_path(self) -> str:
        """Decides how training computes; returns a sentence that says it."""
        data = self.data
        path = choose_path(
            self.network,
            self.kernels,
            self.device,
            self.compute_dtype,
            data.max_seq_length,
            data.batch_size * data.row_tokens,
        )
        self.fused = path.fused
        return path.reason

    def training_step(self, batch: RowBatch, batch_idx: int) -> Tensor:
        """Returns the summed loss over a constant; the optimizer step divides by the targets.

        Micro-batches hold different numbers of targets, so the mean of their means would be wrong.
        The constant only keeps the numbers small enough for float16.
        """
        self.step = None
        if self.fused is None:
            loss_sum, num_targets = target_loss(self.network, batch)
        else:
            if not self.window.micro_batches:
                self.fused.begin()
            loss_sum, num_targets = self.fused.loss(batch, self.data.dropout_seed)
        self.window.add(loss_sum, num_targets, len(batch.input_ids))
        return loss_sum / self.data.row_tokens

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Keeps gradients where they are for the fused path, which adds to them."""
        if self.fused is None:
            optimizer.zero_grad()
        elif gradients := gradients_of(optimizer):
            torch._foreach_zero_(gradients)  # pyright: ignore[reportPrivateImportUsage]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turns the accumulated gradient into that of the mean over the step's targets."""
        if self.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            self.scaler.unscale_(optimizer)  # Lightning leaves it to optimizers that could
        num_targets = self.window.num_targets()
        scale = self.trainer.accumulate_grad_batches * self.data.row_tokens / num_targets
        gradients = gradients_of(optimizer)
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        learning_rate = optimizer.param_groups[0]["lr"]
        # Lightning's own epoch stays 0
        self.step_settings = {"train/learning_rate": learning_rate, "epoch": self.data.epoch}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Refuses what is not finite, and clips as asked.

        Raises:
            NotFiniteError: loss or gradient is NaN or infinite; the weights are still as they were.
        """
        norm = nn.utils.get_total_norm(gradients_of(optimizer))
        self.begin_step(optimizer, norm)
        if not gradient_clip_val:
            return
        parameters = parameters_of(optimizer)
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def begin_step(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Checks the numbers of the step at once, or has the optimizer heed them on the device."""
        numbers = self.window.numbers(norm)
        is_left_out = leaves_steps_out(optimizer) and self.scaler is None
        if is_later := is_left_out and numbers.device.type == "cuda":
            optimizer.found_inf = self.steps.flag_after(numbers)  # pyright: ignore
        sizes = self.window.sizes
        self.step = Step(
            self.trainer.global_step + 1,
            self.data.num_trained_rows - sum(sizes[:-1]),
            sizes,
            self.window.num_targets(),
            *on_the_host(numbers),
        )
        self.window = Window()
        self.steps.add(self.step)
        for step in self.steps.arrived() if is_later else self.steps.all():
            self.refuse_not_finite(step)

    def wait_for_steps(self) -> None:
        """Returns when the numbers of all steps are known: before anything is kept of them."""
        for step in self.steps.all():
            self.refuse_not_finite(step)

    def refuse_not_finite(self, step: Step) -> None:
        """Stops at an optimizer step that would have spoilt the weights, and names its rows.

        In float16 an infinite gradient is no fault: the scaler leaves that step out, and halves its
        scale. Only one that is still infinite at the scale 1 is.
        """
        for what, numbers in step.not_finite().items():
            if what == "gradient" and self.scaler is not None and self.scaler.get_scale() > 1:
                return
            rows = self.data.rows_in_training(step.first_row, step.sizes)
            named = [self.data.row_as_text(row) for number in numbers for row in rows[number]]
            raise NotFiniteError(
                f"the {what} of optimizer step {step.number} is NaN or infinite. "
                f"That step was not made, and the checkpoints are from before it. Its rows of the "
                f"prepared data: {'; '.join(named)}. Look at them, or lower "
                f"--model.optimizer.init_args.lr and start anew in another "
                f"--trainer.default_root_dir."
            )

    def step_numbers(self) -> dict[str, float | Tensor]:
        """Returns what is logged of the step that was just made; waits for it."""
        assert self.step is not None, "the micro-batch completed a step"
        self.wait_for_steps()
        return {
            "train/loss": self.step.mean_loss(),
            "train/gradient_norm": self.step.gradient_norm(),
            **self.step_settings,
        }

    def on_train_batch_end(self, outputs: Any, batch: RowBatch, batch_idx: int) -> None:
        """Logs the step, if it is one of those that are."""
        if self.step is not None and self.trainer._logger_connector.should_update_logs:
            for name, value in self.step_numbers().items():
                self.log(name, value, prog_bar=name == "train/loss")

    def log(self, name: str, value: Any, **options: Any) -> None:  # pyright: ignore
        """Keeps plain numbers off the device, where Lightning would put them and wait for them."""
        on_the_host = value if isinstance(value, Tensor) else torch.tensor(float(value))
        super().log(name, on_the_host, **options)

    @property
    def scaler(self) -> Any:
        """The loss scaler of float16, or None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def on_train_start(self) -> None:
        self.window, self.steps = Window(), Steps()

    def on_validation_start(self) -> None:
        self.wait_for_steps()

    def on_train_end(self) -> None:
        self.wait_for_steps()

    # Scoring: the same steps for validation and test

    def on_validation_epoch_start(self) -> None:
        for metric in (*self.losses.values(), *self.texts.values()):
            metric.reset()
        self.samples = []

    def validation_step(
        self, batch: RowBatch | PromptBatch, batch_idx: int, dataloader_idx: int = ROWS
    ) -> None:
        if isinstance(batch, RowBatch):
            for weights in self.scored_weights():
                with self.using(weights):
                    self.losses[weights].update(*target_loss(self.network, batch))
        else:
            self.score_texts(batch)

    def score_texts(self, batch: PromptBatch) -> None:
        texts: dict[str, list[str]] = {"base": [""] * len(batch.titles)}
        for weights in self.scored_weights():
            with self.using(weights):
                texts[weights] = [description.text for description in self.describe(batch)]
            self.texts[weights].update(texts[weights], batch.references)
        self.samples += [
            Sample(*sample)
            for sample in zip(
                batch.titles, batch.references, texts["base"], texts["tuned"], strict=True
            )
        ]

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn == "fit":
            scores = self.losses["tuned"].compute()
            self.log("epoch", self.data.epoch)
            for name in ("loss", "perplexity"):
                self.log(f"validation/{name}", scores[name], prog_bar=name == "loss")

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(
        self, batch: RowBatch | PromptBatch, batch_idx: int, dataloader_idx: int = ROWS
    ) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)

    def scores(self, weights: Weights) -> dict[str, float]:
        """Returns loss (nats a target token), perplexity, ROUGE (0 to 1) and BLEU (0 to 100)."""
        return {**self.losses[weights].compute(), **self.texts[weights].compute()}

    def scored_weights(self) -> tuple[Weights, ...]:
        """While training only the tuned weights are measured: the base does not change."""
        return ("tuned",) if self.trainer.state.fn == "fit" else ("base", "tuned")

    @contextlib.contextmanager
    def using(self, weights: Weights) -> Iterator[None]:
        """Switches LoRA off for the base's turn."""
        with self.network.disable_adapter() if weights == "base" else contextlib.nullcontext():
            yield

    # Prediction

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[Prediction]:
        descriptions = self.describe(batch)
        return [Prediction(*pair) for pair in zip(batch.titles, descriptions, strict=True)]

    def describe(self, batch: PromptBatch) -> list[Description]:
        return describe(
            self.network, self.data.tokenizer, batch, self.end_ids(), self.max_new_tokens
        )

    def end_ids(self) -> list[int]:
        """Returns the tokens that end a description: the one that is trained first."""
        encoder = self.data.encoder
        return list(dict.fromkeys([encoder.end_id, encoder.eos_id]))

    # What a checkpoint keeps

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # pyright: ignore
        """Returns the LoRA matrices: the base is found by its name, and checked by its bytes."""
        return adapters.trainable_state(self)

    def identity(self, data: DescriptionData) -> Identity:
        """Returns what must be the same wherever these LoRA matrices are used."""
        base = find_backbone(self.backbone, self.revision)
        return Identity(
            backbone=base.name,
            revision=base.revision,
            base_sha256=fingerprint(base.folder),
            quantization=self.quantization,
            template=data.settings.prompt.template,
            is_chat=data.encoder.prompter.is_chat,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.wait_for_steps()
        checkpoint["identity"] = self.identity(self.data).as_dict()
        checkpoint["settings"] = self.settings
        checkpoint["precision"] = str(self.trainer.precision)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_identity(checkpoint.get("identity"), self.identity(self.data), "the checkpoint")
        found, wanted = checkpoint["state_dict"], self.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in wanted.items()}:
            raise UserError(
                "the checkpoint's LoRA matrices have other names or shapes than this run's: "
                "--model.lora was changed. Set r and target_modules back to what they were."
            )


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for p in parameters_of(optimizer) if p.grad is not None]
