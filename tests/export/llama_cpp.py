"""llama.cpp, as xllamacpp carries it: what its users' programs make of a GGUF file."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

xllamacpp = pytest.importorskip("xllamacpp")

MOST_TOKENS = 512


class LlamaCpp:
    """A file that llama.cpp has loaded, in float32 but for the weights, on one thread."""

    def __init__(self, file: Path, lora: Path | None = None) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.port = MOST_TOKENS, 1, 0
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = False
        params.verbosity = -1
        if lora is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        self.server = xllamacpp.Server(params)

    def ask(self, path: str, **question: Any) -> Any:
        request = Request(
            f"{self.server.listening_address}/{path}",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request) as answer:
            return json.load(answer)

    def ids(self, text: str, with_special: bool = False) -> list[int]:
        """Returns the ids of a text; `with_special`: BOS where it adds one, control tokens read."""
        return self.ask(
            "tokenize", content=text, add_special=with_special, parse_special=with_special
        )["tokens"]

    def greedy(self, prompt: str | list[int], num_tokens: int) -> tuple[str, list[int]]:
        """Returns what it writes on: text and ids, up to an end token."""
        answer = self.ask(
            "completion",
            prompt=prompt,
            n_predict=num_tokens,
            temperature=0,
            repeat_penalty=1.0,
            return_tokens=True,
        )
        return answer["content"], answer["tokens"]

    def log_probabilities(self, ids: list[int], num_tokens: int) -> dict[int, float]:
        """Returns the logarithm of each next token's probability."""
        answer = self.ask("completion", prompt=ids, n_predict=1, temperature=0, n_probs=num_tokens)
        of_tokens = answer["completion_probabilities"][0]["top_logprobs"]
        return {of_token["id"]: of_token["logprob"] for of_token in of_tokens}
