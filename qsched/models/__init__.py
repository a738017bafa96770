"""The models that can be chosen: registry, one adapter per family, memory."""
