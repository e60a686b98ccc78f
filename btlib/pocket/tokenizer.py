"""The embedded LM's tokenizer: byte-level BPE with digits apart, and the adapter's boilerplate as single tokens.

DSPy's ChatAdapter wraps every prompt in the same sentences. They are found by formatting a signature with sentinels, so
they follow DSPy when it changes, and become added tokens: a zero-shot prompt shrinks to less than half. Lossless on any
UTF-8 text, since all 256 bytes are in the alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

import dspy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from btlib.pocket import corpus
from btlib.pocket import words as w

PAD, END, ROLES = "<|pad|>", "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 2560


def boilerplate() -> list[str]:
    """Find the sentences that ChatAdapter puts around a program's own words, by formatting sentinels through it."""
    made = dspy.ChainOfThought(dspy.Signature("ina, inb -> outa", "inst")).predict.signature
    plain = dspy.Signature("ina, inb -> outa")
    demos = [{"ina": "vala", "outa": "valb"}, {"ina": "vala", "inb": "valb", "reasoning": "valc", "outa": "vald"}]
    texts = []
    for each in (made, plain):
        texts += [m["content"] for m in corpus.ADAPTER.format(each, demos, {"ina": "vala", "inb": "valb"})]
    own = r"ina|inb|outa|inst|val[abcd]|reasoning|\(str\): *\n|\(str\):"
    pieces = {piece for text in texts for piece in re.split(own, text) if len(piece) > 3}
    return sorted(pieces | {"(str):", "(str): "})


def _values(documents: Iterator[corpus.Document]) -> Iterator[str]:
    """Yield what is between the boilerplate: names, values, instructions; then every listed word."""
    cut = re.compile("|".join(re.escape(p) for p in sorted(boilerplate(), key=len, reverse=True)))
    for document in documents:
        for message in document.messages:
            yield from (piece for piece in cut.split(message["content"]) if piece)
    names = w.GIVEN + w.SURNAMES + w.STEMS + w.SUFFIXES + w.ADJECTIVES + w.NOUNS + w.COMPANY_WORDS
    lower = tuple(n.lower() for n in names)
    other = (*w.JOBS, *w.PRODUCTS, *w.THINGS, *w.CONTAINERS, *w.PARTS, *w.MEASURES, *w.IRIS_WORDS, *w.BEINGS, *w.KINDS)
    for word in names:  # every name is one token, so that copying it is copying one token
        yield from [word, " " + word] * 600
    for word in (*lower, *other):  # as class labels these come up more rarely
        yield from [word, " " + word] * (400 if word in other else 6)


def build_tokenizer(seed: int = 0, documents: int = 6000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated documents; the same seed gives the same vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    # words with their space, digits one by one, snake_case names in one piece, line breaks apart
    pattern = Regex(r" ?[\p{L}_]+|\p{N}| ?[^\s\p{L}\p{N}_]+|\n+| +|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    pieces = boilerplate()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(pieces),
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_values(islice(corpus.documents(seed), documents)), trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
