"""The embedded LM itself, before anything is learned: a Llama in three sizes, and how its word vectors begin."""

from __future__ import annotations

SIZES = {  # hidden, MLP, layers, heads, KV heads: about a third, one and three times 2.9 million weights
    "pocket-s": (128, 344, 4, 4, 2),
    "pocket": (192, 512, 6, 6, 3),
    "pocket-l": (320, 832, 7, 10, 5),
}


def make_model(size: str, vocabulary: int, attention: str = "sdpa"):
    """Build the LM with fresh weights, in fp32: a Llama with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, mlp, layers, heads, kv = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(attention)
    return model


def share_spelling(model, tokenizer) -> int:
    """Give each word the same vector with and without its leading space, up to one common offset; returns how many.

    Copying a name to the start of a line changes its token (" Maro" -> "Maro"). With unrelated vectors every such pair
    has to be learned on its own, and copying came late.
    """
    import torch

    vocabulary = tokenizer.get_vocab()
    pairs = [
        (i, vocabulary["Ġ" + t]) for t, i in vocabulary.items() if t.isalpha() and len(t) > 2 and "Ġ" + t in vocabulary
    ]
    table = model.get_input_embeddings().weight.data
    bare, spaced = torch.tensor(sorted(pairs)).T
    offset = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(0)) * table.std()
    mean = table[bare].mean(0), table[spaced].mean(0)
    shared = (table[bare] - mean[0] + table[spaced] - mean[1]) / 2**0.5
    table[bare], table[spaced] = mean[0] + shared, mean[1] + shared + offset
    return len(pairs)
