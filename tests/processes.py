"""A session of pytest -> how many processes run it.

All tests, or a folder of them, are shared out file by file, in the order of their names: what a
file makes once is made once. There is one process more than there are cores, since a fifth of the
time goes by in waiting for what tests start. One process runs them where files are named, where
pytest-xdist is not installed, and where there is a GPU, whose memory some of them measure. `-n`
says otherwise.
"""

import os

import pytest
import torch

# Each holds a gigabyte, and so may what it starts.
MOST = 4


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Sets what pytest-xdist reads next."""
    options = config.option
    is_chosen = getattr(options, "numprocesses", 0) is not None or options.usepdb
    is_worker = hasattr(config, "workerinput")
    names_files = any(".py" in argument for argument in config.args)
    if not (is_chosen or is_worker or names_files or torch.cuda.is_available()):
        options.numprocesses = min((os.cpu_count() or 1) + 1, MOST)
        options.dist, options.loadscopereorder = "loadfile", False
