"""How the embedded text-to-emoji model is made: data set, tiny CLIP, denoiser, few-step student.

`python -m qsched.embedded dataset|damage|clip|text|observer|denoiser|distil|export|latent|sheet|evaluate`, in
that order, or `whole` for all training at once; assets/emoji-lcm/README.md tells how the shipped weights were
made, with their numbers.
"""
