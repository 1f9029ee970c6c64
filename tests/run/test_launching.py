"""What is said where one of several processes fails: by the one that failed by itself, once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.run.launching import (
    FailedProcess,
    Told,
    cause_of,
    leave_word,
    meeting_of,
    told_in,
)
from amazon_desc.support.errors import Interrupted, PeerLostError, StorageError, UserError
from amazon_desc.support.resources import PACKAGE

KILLED = (
    "process {rank} of 2 was ended by SIGKILL, most likely for lack of memory. All others were "
    "ended with it; the same command resumes."
)
LOST = Told("another process has ended", 11.0, 69, None)
ASKED = Told("SIGTERM", 10.5, 143, "SIGTERM")
OVER = Told("--trainer.max_time", 10.0, 124, "--trainer.max_time")
FULL = Told("the disk is full", 12.0, 7, None)


def failed(*codes: int | None, at: int = 10) -> dict[int, Any]:
    """Returns what the agent knows of processes that have ended with these codes; None: with 0."""
    return {
        rank: SimpleNamespace(exitcode=code, timestamp=at)
        for rank, code in enumerate(codes)
        if code is not None
    }


@pytest.mark.parametrize(
    ("failures", "told", "said", "code"),
    [
        # killed, while the other one finds nobody to talk to, or is asked to leave for it
        (failed(-9, 69), {1: LOST}, KILLED.format(rank=0), 137),
        (failed(69, -9), {0: LOST}, KILLED.format(rank=1), 137),
        (failed(143, -9), {0: ASKED}, KILLED.format(rank=1), 137),
        (failed(-15, -9), {}, KILLED.format(rank=1), 137),
        # a sentence of its own, whoever ends first, and whatever signal ends it then
        (failed(69, 7), {0: LOST, 1: FULL}, "process 1 of 2: the disk is full", 7),
        (failed(69, -15), {0: LOST, 1: FULL}, "process 1 of 2: the disk is full", 7),
        (failed(7, 69), {0: FULL, 1: LOST}, "the disk is full", 7),
        # all refuse the same
        (failed(7, 7), {0: FULL, 1: FULL}, "the disk is full", 7),
        # what was to be saved is not, though the other one was asked and left
        (failed(7, 143), {0: FULL, 1: ASKED}, "the disk is full", 7),
        # a traceback stands above
        (
            failed(69, 1),
            {0: LOST},
            "process 1 of 2 ended with code 1; what it said of it stands above.",
            1,
        ),
        # on another machine
        (failed(69, 69), {0: LOST, 1: LOST}, "another process has ended", 69),
    ],
)
def test_the_process_that_failed_by_itself_is_named(
    failures: dict[int, Any], told: dict[int, Told], said: str, code: int
):
    cause = cause_of(failures, told, 2)
    assert isinstance(cause, FailedProcess)
    assert (str(cause), cause.exit_code) == (said, code)


@pytest.mark.parametrize(
    ("failures", "told", "why", "code"),
    [
        (failed(143, 69), {0: ASKED, 1: LOST}, "SIGTERM", 143),
        (failed(143, None), {0: ASKED}, "SIGTERM", 143),
        # asked by the agent, for the other one was asked before
        (failed(143, 130), {0: Told("", 12.0, 143, "SIGTERM"), 1: Told("", 11.0, 130, "SIGINT")},
         "SIGINT", 130),
        # it waited in torch, and the agent has killed it half a minute later
        ({**failed(143, at=10), 1: failed(-9, at=41)[0]}, {0: ASKED}, "SIGTERM", 143),
        # before they could write anything down
        (failed(-15, -15), {}, "SIGTERM", 143),
        (failed(130, 130), {}, "SIGINT", 130),
        (failed(124, 124), dict.fromkeys((0, 1), OVER), "--trainer.max_time", 124),
    ],
)  # fmt: skip
def test_processes_that_were_asked_to_leave_have_not_failed(
    failures: dict[int, Any], told: dict[int, Told], why: str, code: int
):
    cause = cause_of(failures, told, 2)
    assert isinstance(cause, Interrupted)
    assert (cause.why, cause.exit_code) == (why, code)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StorageError("full"), ("full", 7, None)),
        (PeerLostError("lost"), ("lost", 69, None)),
        (Interrupted("SIGINT", 130), ("SIGINT", 130, "SIGINT")),
    ],
)
def test_a_word_that_is_left_is_found(
    error: Any, told: tuple[str, int, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "0").mkdir()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0/error.json"))
    leave_word(error)
    (word,) = told_in(tmp_path).values()
    assert (word.message, word.exit_code, word.why) == told
    # and torch's agent reads it too, which takes seconds as a text
    found = json.loads((tmp_path / "0/error.json").read_text())
    assert int(found["message"]["extraInfo"]["timestamp"]) == int(word.seconds)
    assert [file.name for file in (tmp_path / "0").iterdir()] == ["error.json"]


def test_what_torch_writes_of_a_traceback_is_no_word_of_ours(tmp_path: Path):
    found = {"message": {"message": "E", "extraInfo": {"py_callstack": "", "timestamp": "1"}}}
    (tmp_path / "error.json").write_text(json.dumps(found))
    assert told_in(tmp_path) == {}


def test_several_machines_have_to_be_told_where_they_meet(monkeypatch: pytest.MonkeyPatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UserError, match=r"found no MASTER_ADDR, NODE_RANK\. Set them: "):
        meeting_of(2)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("NODE_RANK", "1")
    meeting, master = meeting_of(2)
    assert meeting["endpoint"] == "10.0.0.1:29500"
    assert (meeting["backend"], meeting["rank"]) == ("static", 1)
    assert master == {"master_addr": "10.0.0.1", "master_port": 29500}


# What is lost has not been saved


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:1] Connection closed by peer"), 69),
        (StorageError("the disk is full"), 7),
        (ValueError("of something that was left half done"), 143),
    ],
)
def test_who_was_asked_to_leave_and_has_lost_another_process_has_not_saved(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
):
    def fail() -> None:
        with errors_in_a_sentence(["fit"], "amazon_desc") as signals:
            signals.received = Interrupted("SIGTERM", 143)
            raise error

    with pytest.raises(SystemExit) as left:
        fail()
    assert left.value.code == code
    assert "amazon_desc: " in capsys.readouterr().err


# Signals

LAUNCHER = """
import os, signal, sys, threading
from types import SimpleNamespace
from torch.distributed.elastic.agent.server.api import WorkerState
from amazon_desc.run.launching import signals_handed_on

handed = []
group = SimpleNamespace(state=WorkerState.HEALTHY, workers=[SimpleNamespace(id=7)])
os_kill, os.kill = os.kill, lambda *of: handed.append(of)
with signals_handed_on(SimpleNamespace(get_worker_group=lambda: group)):
    for number in sys.argv[1:]:
        os_kill(os.getpid(), int(number))
        print(handed, flush=True)
"""


@pytest.mark.parametrize(
    ("sent", "code", "num_lines"),
    [
        ([signal.SIGTERM], 0, 1),
        ([signal.SIGINT, signal.SIGINT], 130, 1),
        ([signal.SIGHUP, signal.SIGHUP], 0, 2),  # system and shell both send it
    ],
)
def test_a_launcher_hands_the_first_signal_on_and_ends_with_the_second(
    sent: list[signal.Signals], code: int, num_lines: int
):
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *(str(int(number)) for number in sent)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # not as under nohup
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == [f"[(7, {int(sent[0])})]"] * num_lines
