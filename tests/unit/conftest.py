"""Fixtures that several files of tests use."""

import pytest
from fakes import write_gsm8k
from run_fixtures import World, data_folder

from btlib.tasks import load_task


@pytest.fixture
def sums(tmp_path):
    """GSM8K's form with sums that a scripted LM can answer: 30 to train on, 60 to test."""
    write_gsm8k(tmp_path, train=30, test=60)
    return load_task("gsm8k", tmp_path)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A data folder with the sizes of preset smoke, for tests that leave it as it is."""
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(small_data, monkeypatch):
    """btlib's data folder for one test: small files."""
    monkeypatch.setenv("BTLIB_DATA", str(small_data))
    return small_data


@pytest.fixture
def world(data, monkeypatch):
    """Small data, and a scripted LM in the place of every LM that a run loads."""
    made = World()
    monkeypatch.setattr("btlib.steps.state.load_lm", made.load_lm)
    return made
