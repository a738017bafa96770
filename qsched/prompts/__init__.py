"""Prompts: the built-in lists, and files that users bring."""
