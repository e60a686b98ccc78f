"""A random Llama and a tokenizer, small enough to make in a test; `tiny_lm_folder(tmp_path)` writes both as a
checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEXT = [
    "Your input fields are: question and answer.",
    "[[ ## question ## ]]\nHow many apples does Ann have?\n\n[[ ## answer ## ]]\n12\n\n[[ ## completed ## ]]\n",
    "Respond with the corresponding output fields, starting with the field `[[ ## answer ## ]]`.",
    "All interactions will be structured in the following way, with the appropriate values filled in.",
]


def tiny_tokenizer(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer over a few sentences, with the chat template of the embedded LM's kind."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    # As wide as this, a random model has clear favourites, so that a greedy answer is not decided by rounding.
    "initializer_range": 0.3,
}


def tiny_lm_folder(tmp_path: Path, name: str = "tiny", seed: int = 0, **changes) -> Path:
    """Write a random Llama (2 layers, hidden 64, 4 query and 2 key heads, tied embeddings) and its tokenizer; return
    the folder.
    """
    folder = Path(tmp_path) / name
    tokenizer = tiny_tokenizer()
    settings = {
        **SMALL,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_adapter(folder: Path, out: Path, seed: int = 0, rank: int = 4) -> Path:
    """Write a LoRA adapter whose weights are random (so that it changes every answer); return its folder."""
    from peft import LoraConfig, get_peft_model

    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        targets = ["q_proj", "k_proj", "v_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
    model.save_pretrained(out, save_embedding_layers=False)
    return out
