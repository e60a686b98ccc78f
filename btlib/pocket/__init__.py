"""The recipe of the embedded LM: words, worlds, word problems, documents, tokenizer, pre-training, evaluation."""
