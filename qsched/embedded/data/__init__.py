"""The embedded model's data: emoji art, scenes, words."""
