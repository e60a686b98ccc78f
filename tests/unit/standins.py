"""Random-weight checkpoints of the known LMs' architectures, each with a chat template that behaves as its own does.

The templates are written for these tests; what they share with the real ones is how they treat roles, spaces and ends
of turns. The tokenizer is the embedded LM's with the special tokens added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from lm_fixtures import SMALL
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaConfig, MistralConfig, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from btlib.support.paths import data_dir

_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
)
_CHATML = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
_HEADER = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}"
_HEADER_OPEN = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"

# Refuses a system message, and turns that do not alternate.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    + _ALTERNATE
    + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# Folds the system message into the first turn; a space before the token that ends an answer.
LLAMA_2 = (
    "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if s else messages) %}" + _ALTERNATE + "{% if m.role == 'user' %}"
    "{% set text = '<<SYS>>\\n' + s + '\\n<</SYS>>\\n\\n' + m.content if s and loop.first else m.content %}"
    "{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = "{{ bos_token }}{% for m in messages %}" + _HEADER + "{% endfor %}" + _HEADER_OPEN
# Writes the date into a system turn that it always has.
LLAMA_32 = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% set s = messages[0].content | trim if messages[0].role == 'system' else '' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + s + '<|eot_id|>' }}"
    "{% for m in (messages[1:] if s else messages) %}" + _HEADER + "{% endfor %}" + _HEADER_OPEN
)
# Brings a system message where there is none.
SMOLLM_2 = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}" + _CHATML + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# An empty thought stands before the last answer, and ends the prompt where thinking is turned off; not before others.
QWEN_3 = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + m.content + '<|im_end|>\\n' }}{% else %}"
    + _CHATML
    + "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)


@dataclass(frozen=True)
class StandIn:
    """How one stand-in is made: configuration class, template, first and last special token, what differs in shape."""

    config: type
    template: str
    bos: str
    ends: tuple[str, ...]  # the tokenizer's own first
    special: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # tokens of their own that decoding does not drop
    shape: dict = field(default_factory=dict)


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
_ROPE_32 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}  # fmt: skip
STAND_INS: dict[str, StandIn] = {
    "mistral-7b": StandIn(MistralConfig, MISTRAL, "<s>", ("</s>",), shape={"sliding_window": None}),
    "llama-2-7b": StandIn(LlamaConfig, LLAMA_2, "<s>", ("</s>",), shape={"num_key_value_heads": 4}),
    "llama-3-8b": StandIn(LlamaConfig, LLAMA_3, "<|begin_of_text|>", ("<|end_of_text|>", "<|eot_id|>"), _HEADERS),
    "llama-3.2-1b": StandIn(
        LlamaConfig, LLAMA_32, "<|begin_of_text|>", ("<|eot_id|>", "<|end_of_text|>"), _HEADERS,
        shape={"tie_word_embeddings": True, "rope_parameters": _ROPE_32},
    ),
    "smollm2-360m": StandIn(
        LlamaConfig, SMOLLM_2, "<|im_start|>", ("<|im_end|>",),
        shape={"tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48},
    ),
    "qwen3-0.6b": StandIn(
        Qwen3Config, QWEN_3, "<|endoftext|>", ("<|im_end|>", "<|endoftext|>"), ("<|im_start|>",),
        ("<think>", "</think>"), {"tie_word_embeddings": True, "head_dim": 32},
    ),
}  # fmt: skip


def stand_in_tokenizer(name: str):
    """Return the embedded LM's tokenizer with a known LM's special tokens and a template of its kind."""
    made = STAND_INS[name]
    tokenizer = AutoTokenizer.from_pretrained(data_dir() / "pocket-lm")
    special = dict.fromkeys((made.bos, *made.ends, *made.special))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in made.words])
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = made.bos, made.ends[0], made.template
    return tokenizer


def stand_in_folder(tmp_path: Path, name: str, **changes) -> Path:
    """Write a random checkpoint of a known LM's architecture (2 layers, hidden 64) and return its folder."""
    made, tokenizer = STAND_INS[name], stand_in_tokenizer(name)
    settings = {
        **SMALL,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [tokenizer.convert_tokens_to_ids(token) for token in made.ends],
        "pad_token_id": tokenizer.pad_token_id,
    }
    folder = Path(tmp_path) / name
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(made.config(**{**settings, **made.shape, **changes}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
