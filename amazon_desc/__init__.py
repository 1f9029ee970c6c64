"""Fine-tunes a 4-bit language model with LoRA to write product descriptions from titles."""

__version__ = "0.1.0"
