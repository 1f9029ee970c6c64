"""What of the forward pass is recomputed in the backward pass, to save memory."""

from __future__ import annotations

from typing import Literal

Recompute = Literal["none", "parts", "mlp", "layers"]
"""From the most memory to the least: nothing; what is quick to compute; also the MLP's first
product, of gate and up; whole layers."""

RecomputeOption = Literal["auto", "none", "parts", "mlp", "layers"]
"""auto: as little as the free memory allows."""
