"""Which layer gets how many bits: a multiple-choice knapsack over measured errors and real bytes."""

from collections.abc import Mapping

Costs = Mapping[str, Mapping[int, float]]
"""By layer name and bits per weight."""


def allocate(
    errors: Costs, sizes: Mapping[str, Mapping[int, int]], budget: int, uniform: int
) -> dict[str, int]:
    """Bits per layer that keep the sum of the errors small within a budget of bytes.

    All layers start at the fewest bits; the upgrade that takes away most error per byte and still fits is
    made, again and again, two bits to eight in one go included. The errors of different layers are taken to
    add up (arXiv 2405.17873 does too and hands the same problem to an integer program). Every layer at
    `uniform` bits is the answer if that is better than what was found.

    Args:
        errors: squared relative error of the model's output when this layer alone has this many bits.
        sizes: bytes of the layer at these bits; the same choices.
        budget: bytes for all layers together.
        uniform: bits that all layers can be given within the budget.
    Raises:
        ValueError: if the fewest bits do not fit.
    """
    bits = {name: min(choices) for name, choices in errors.items()}
    left = budget - sum(sizes[name][b] for name, b in bits.items())
    if left < 0:
        raise ValueError(f"the budget of {budget} bytes is too small by {-left} bytes")
    while (upgrade := _best_upgrade(errors, sizes, bits, left)) is not None:
        name, b = upgrade
        left -= sizes[name][b] - sizes[name][bits[name]]
        bits[name] = b
    total = lambda chosen: sum(errors[name][b] for name, b in chosen.items())
    plain = dict.fromkeys(bits, uniform)
    fits = all(uniform in choices for choices in errors.values())
    return (
        plain
        if fits and sum(sizes[n][uniform] for n in plain) <= budget and total(plain) <= total(bits)
        else bits
    )


def _best_upgrade(errors: Costs, sizes: Mapping[str, Mapping[int, int]], bits: Mapping[str, int],
                  left: int) -> tuple[str, int] | None:  # fmt: skip
    best, most = None, 0.0
    for name, now in bits.items():
        for b in errors[name]:
            bytes_more = sizes[name][b] - sizes[name][now]
            if b <= now or bytes_more > left:
                continue
            gain = (errors[name][now] - errors[name][b]) / max(bytes_more, 1)
            if gain > most:
                best, most = (name, b), gain
    return best
