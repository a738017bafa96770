"""Strategies: which candidates a search computes next."""
