"""Numbers on held-out prompts, speed, and where the error of quantization comes from."""
