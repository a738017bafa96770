"""Taking results away: a scheduler folder, how to use it, the model card, the Hub."""
