"""How the embedded text-to-emoji model is made: data set, tiny CLIP, denoiser, few-step student.

`python -m qsched.embedded dataset|damage|clip|observer|denoiser|distil|export|sheet|evaluate`, in that order, or `whole` for all training at once; see assets/emoji-lcm/README.md for the recipe and its numbers.
"""
