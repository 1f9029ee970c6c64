# Triton's own types say too little of kernels, and it is not on every machine that checks types.
from typing import Any

def __getattr__(name: str) -> Any: ...
