"""Which process this is, and what it does when it is asked twice, or when the others are gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from amazon_desc.support.ranks import Place, is_answered_for, place_of
from amazon_desc.support.resources import PACKAGE

OF_TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "WORLD_SIZE": "4"},
    **{"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
}
OF_SRUN = {
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "2"},
    **{"SLURM_PROCID": "4", "SLURM_LOCALID": "1"},
}
OF_A_BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "6", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(0, 1, 0, 1, "")),
        (OF_TORCHRUN, Place(3, 4, 1, 2, "torchrun")),
        (OF_SRUN, Place(4, 6, 1, 3, "srun")),
        (OF_A_BATCH_SCRIPT, Place(0, 1, 0, 1, "")),
        ({**OF_SRUN, "SLURM_STEP_NUM_TASKS": "1"}, Place(0, 1, 0, 1, "")),
        ({**OF_SRUN, **OF_TORCHRUN}, Place(3, 4, 1, 2, "torchrun")),  # torchrun under srun
    ],
)
def test_a_place_is_what_whoever_started_the_process_says(
    environment: dict[str, str], place: Place
):
    assert place_of(environment) == place


def test_a_place_knows_its_machines_and_its_name():
    place = place_of(OF_TORCHRUN)
    assert (place.num_nodes, place.is_first) == (2, False)
    assert place.named().startswith("process 3 of 4 (on ")


def test_only_our_own_launcher_answers_for_a_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/some/error.json")
    monkeypatch.delenv("AMAZON_DESC_LAUNCHED", raising=False)
    assert not is_answered_for()
    monkeypatch.setenv("AMAZON_DESC_LAUNCHED", "1")
    assert is_answered_for()


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
        timeout=60,
        check=False,
    )


ASKED_TWICE = """
import os, signal
from amazon_desc.support.signals import Signals
signals = Signals()
with signals.handled():
    signals.is_training = True
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    print("goes on", signals.received, flush=True)
"""


@pytest.mark.parametrize(
    ("environment", "code", "is_said"),
    [
        ({}, 130, True),
        (OF_TORCHRUN, 0, False),  # the first process says it
        ({**OF_TORCHRUN, "RANK": "0"}, 0, True),
    ],
)
def test_one_of_several_is_asked_twice_and_finishes_its_step(
    environment: dict[str, str], code: int, is_said: bool
):
    done = run(ASKED_TWICE, **environment)
    assert done.returncode == code, done.stderr
    assert ("goes on ('SIGTERM', 143)" in done.stdout) == (code == 0)
    assert ("SIGTERM: finishing this optimizer step and saving." in done.stderr) == is_said


DEAF = """
import os, signal, threading
from amazon_desc.support import signals
signals.DEAF_SECONDS = 0.3
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
with signals.Signals().handled():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0)
    except BaseException:
        pass  # as torch, which waits for the others and hears nothing
    threading.Event().wait(20)
    print("still there", flush=True)
"""


# A main thread in foreign code, where Python runs no handler: it locks what is locked.
DEAF_IN_C = """
import ctypes, os, signal, threading
from amazon_desc.support import signals
signals.DEAF_SECONDS = 0.3
with signals.Signals().handled():
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    for _ in range(2):
        libc.pthread_mutex_lock(mutex)
print("still there", flush=True)
"""

# What a loader process is asked, its parent is not.
FORKED = """
import os, signal, time
from amazon_desc.support import signals
signals.DEAF_SECONDS = 0.1
with signals.Signals().handled():
    if not (child := os.fork()):
        time.sleep(20)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("goes on", flush=True)
"""


@pytest.mark.parametrize("program", [DEAF, DEAF_IN_C])
def test_one_of_several_that_hears_nothing_leaves_all_the_same(program: str):
    started = time.monotonic()
    done = run(program, **OF_TORCHRUN)
    assert (done.returncode, done.stdout) == (143, "")
    assert time.monotonic() - started < 15


def test_what_a_loader_process_is_asked_its_parent_is_not():
    done = run(FORKED, **OF_TORCHRUN)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


CHILD = """
import os, time
from amazon_desc.support.parents import end_with
end_with(int(os.environ["PARENT"]) or os.getppid())
print(os.getpid(), flush=True)
time.sleep(60)
"""

PARENT = """
import os, subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-c", os.environ["CHILD"]], stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone promises it")
def test_a_process_ends_with_the_one_that_started_it():
    done = run(PARENT, CHILD=CHILD, PARENT="0")
    assert done.returncode == -signal.SIGKILL
    child, end = int(done.stdout), time.monotonic() + 10
    alive = ["ps", "-p", str(child), "-o", "stat="]
    while time.monotonic() < end:
        state = subprocess.run(alive, capture_output=True, text=True, check=False).stdout
        if not state.strip() or state.startswith("Z"):
            break
        time.sleep(0.02)
    else:
        pytest.fail("it has outlived the other")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone promises it")
def test_a_process_whose_parent_is_gone_already_ends_at_once():
    assert run(CHILD, PARENT="1").returncode == -signal.SIGKILL
