"""The README of an adapter folder: what the adapter is, and Python that writes with it.

In come what the adapter belongs to and the module that was trained, out goes Markdown with one
block of Python, which needs no more than torch, transformers, peft and bitsandbytes. The cards of
exports say more: they are export/card.py's.
"""

from pathlib import Path

from amazon_desc.export.usage import adapter_lines, prompt_section
from amazon_desc.model.identity import Identity
from amazon_desc.training.module import DescriptionModule


def model_card(identity: Identity, module: DescriptionModule, folder: Path) -> str:
    """Returns the README of the adapter folder: what it is, and lines that write with it."""
    return CARD.format(
        base=identity.backbone,
        prompt=prompt_section(identity),
        lines=adapter_lines(identity, module, str(folder)),
    )


CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [lora, product-descriptions]
---

# Product descriptions from titles

LoRA matrices for `{base}`, trained by amazon_desc. {prompt}
Load it with the base in the form that it was trained on; in another form the texts differ:

```python
{lines}
```
"""
