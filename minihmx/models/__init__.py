"""A model: its config, weights, tokenizer and chat format, where they come from, and adapters."""
