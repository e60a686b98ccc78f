"""Load and train without bars and notices that a notebook's output would keep."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_bars() -> Iterator[None]:
    """Switch off transformers' progress bars, and the warnings that PEFT and transformers cause in each other."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
