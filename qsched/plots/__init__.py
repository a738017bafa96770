"""Figures: the loss surface with its noise, and how its optimum moves with k (matplotlib without pyplot)."""
