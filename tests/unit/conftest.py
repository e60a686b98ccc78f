"""Fixtures that several files of tests use."""

import pytest
from fakes import write_gsm8k

from btlib.tasks import load_task


@pytest.fixture
def sums(tmp_path):
    """GSM8K's form with sums that a scripted LM can answer: 30 to train on, 60 to test."""
    write_gsm8k(tmp_path, train=30, test=60)
    return load_task("gsm8k", tmp_path)
