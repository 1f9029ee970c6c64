"""A process that ends with the one that started it, however that ends.

In comes the id of the one that started this process, out goes a promise of the system. Linux alone
makes it; elsewhere a process that is left goes on until it finds nobody to talk to.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with(parent: int) -> None:
    """Has the system kill this process when `parent`, which has started it, is gone.

    Args:
        parent: the id of that process; where it is gone already, this one ends here
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
