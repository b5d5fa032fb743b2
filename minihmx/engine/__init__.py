"""What a model runs on: opening it, prompts, sampling, and fitting into memory."""
