"""LoRA on chat rows: PEFT's adapter, Hugging Face's Trainer, rows packed without padding."""
