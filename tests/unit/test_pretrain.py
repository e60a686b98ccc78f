"""`btlib pretrain` as a command: it resumes, and leaves nothing running behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from btlib.pocket import tokenizer

SCRIPT = """
import sys
from btlib.pocket import pretrain
import torch.multiprocessing as mp

pretrain.LOG_EVERY, pretrain.SAVE_SECONDS = 5, 0

if __name__ == "__main__":
    recipe = pretrain.Recipe("pocket-s", tokens=float(sys.argv[2]), batch_tokens=512, drill_steps=0, closing=4e3)
    mp.spawn(pretrain.train, (recipe, sys.argv[1], sys.argv[3]), nprocs=2)
"""


@pytest.fixture(scope="module")
def small_tokenizer():
    return tokenizer.build_tokenizer(documents=300)


@pytest.fixture
def folder(tmp_path, small_tokenizer):
    small_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def start(folder, tokens, meeting):
    command = [sys.executable, str(folder / "script.py"), str(folder), str(tokens), str(folder / meeting)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(ready, seconds=600):  # of a busy machine
    end = time.time() + seconds
    while not ready():
        assert time.time() < end
        time.sleep(0.2)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_workers_end_when_the_command_is_killed_and_the_next_one_goes_on_from_there(folder):
    command = start(folder, 1e9, "first")
    try:
        wait_for(lambda: len(log(folder)) >= 2)
        workers = children(command.pid)
        assert len(workers) >= 2
        command.send_signal(signal.SIGKILL)
        command.wait()
        wait_for(lambda: not any(running(pid) for pid in workers))
    finally:
        command.kill()
    before = log(folder)
    assert start(folder, before[-1]["tokens"] + 12e3, "second").wait(900) == 0
    lines = log(folder)
    assert lines[:1] == before[:1] and len(lines) > len(before)
    assert [line["step"] for line in lines] == list(range(5, lines[-1]["step"] + 1, 5))  # no hole, none twice
    assert (folder / "model" / "model.safetensors").exists() and len(list((folder / "snapshots").iterdir())) >= 2


def log(folder):
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
