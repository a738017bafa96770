"""The embedded denoiser: network, teacher, distillation."""
