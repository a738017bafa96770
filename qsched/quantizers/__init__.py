"""Other methods on our quantizer: MixDQ, SVDQuant, torchao."""
