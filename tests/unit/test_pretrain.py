"""`btlib pretrain` as a command: it resumes, and leaves nothing running behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from btlib.pocket import pretrain, tokenizer

SCRIPT = """
import sys
from btlib.pocket import pretrain
import torch.multiprocessing as mp

if __name__ == "__main__":
    recipe = pretrain.Recipe("pocket-s", tokens=float(sys.argv[2]), batch_tokens=512, drill_steps=0, closing=12e3)
    mp.spawn(pretrain.train, (recipe, sys.argv[1], sys.argv[3]), nprocs=2)
"""


@pytest.fixture
def folder(tmp_path):
    tokenizer.build_tokenizer(documents=300).save_pretrained(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def start(folder, tokens, meeting):
    command = [sys.executable, str(folder / "script.py"), str(folder), str(tokens), str(folder / meeting)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(ready, seconds=120):
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
def test_workers_end_when_the_command_is_killed(folder):
    command = start(folder, 1e9, "meeting")
    try:
        wait_for((folder / "log.jsonl").exists)
        workers = children(command.pid)
        assert len(workers) >= 2
        command.send_signal(signal.SIGKILL)
        command.wait()
        wait_for(lambda: not any(running(pid) for pid in workers), 30)
    finally:
        command.kill()


def test_a_run_ends_with_its_tokens_and_a_log_without_holes(folder):
    assert start(folder, 60e3, "first").wait(300) == 0
    steps = [json.loads(line)["step"] for line in open(folder / "log.jsonl")]
    assert steps == list(range(pretrain.LOG_EVERY, steps[-1] + 1, pretrain.LOG_EVERY))
    assert (folder / "model" / "model.safetensors").exists() and len(list((folder / "snapshots").iterdir())) >= 5
