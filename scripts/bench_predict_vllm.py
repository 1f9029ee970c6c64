"""What vLLM's process of bench_predict.py does: writes for prompts, and says how long it took.

    python scripts/bench_predict_vllm.py TASK.json RESULT.json

In: a folder of merged weights and prompts as ids. Out: new ids, and seconds. It imports nothing of
this project, so that it can be run by a Python that has vLLM alone. Several trials are written by
one engine, which takes more than a minute to start.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(given: str, result: str) -> None:
    task = json.loads(Path(given).read_text(encoding="utf-8"))
    from vllm import LLM, SamplingParams

    llm = LLM(**engine_options(task))
    num = task["new_tokens"]
    # ids are compared: no side makes text of them
    how: dict[str, Any] = {"temperature": 0.0, "max_tokens": num, "detokenize": False}
    how |= {"stop_token_ids": task["end_ids"]} if task["ends"] else {"ignore_eos": True}
    prompts = [{"prompt_token_ids": ids} for ids in task["prompts"]]
    llm.generate(prompts[: task["num_warm_up"]], SamplingParams(**how), use_tqdm=False)
    ready = time.time() - task["started"]
    trials = []
    for _ in range(task["trials"]):
        llm.reset_prefix_cache()  # it would find the last trial's prompts
        start = time.perf_counter()
        outputs = llm.generate(prompts, SamplingParams(**how), use_tqdm=False)
        seconds = time.perf_counter() - start
        trials.append({"seconds": seconds, "startup_seconds": ready})
    written = [list(output.outputs[0].token_ids) for output in outputs]
    Path(result).write_text(json.dumps({"trials": trials, "ids": written}), encoding="utf-8")


def engine_options(task: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"model": task["model"], "dtype": task["dtype"], "seed": 0}
    options["max_model_len"] = task["longest"] + task["new_tokens"]
    options["generation_config"] = "vllm"  # nothing is taken from the folder
    if task["at_a_time"]:
        options["max_num_seqs"] = task["at_a_time"]
        options["compilation_config"] = {"max_cudagraph_capture_size": task["at_a_time"]}
    return options


if __name__ == "__main__":
    main(*sys.argv[1:])
