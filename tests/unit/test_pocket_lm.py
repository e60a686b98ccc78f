"""The embedded LM as it is shipped: its files, its size, and that it follows ChatAdapter's form."""

from itertools import islice

import pytest
from safetensors import safe_open

from btlib.paths import data_dir
from btlib.pocket import corpus, evaluate

FOLDER = data_dir() / "pocket-lm"


def test_weights_are_one_small_safetensors_file_in_bf16():
    names = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert (FOLDER / "model.safetensors").stat().st_size < 16e6
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        assert {str(file.get_slice(key).get_dtype()) for key in file.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize("demos", [0, 6])
def test_answers_follow_the_adapters_form(demos):
    drawn = [d for f in corpus.FAMILIES for d in islice(corpus.documents(evaluate.SEED, family=f, demos=demos), 5)]
    texts = evaluate.answers(FOLDER, drawn)
    followed = sum(evaluate.followed(document, text) for document, text in zip(drawn, texts, strict=True))
    assert followed >= 0.95 * len(drawn)
