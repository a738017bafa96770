"""Coefficients, the few-step loop, and prefixes that candidates share."""
