"""The search for coefficients: options, studies, strategies."""
