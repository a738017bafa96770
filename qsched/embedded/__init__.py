"""How the embedded text-to-emoji model is made: data set, tiny CLIP, denoiser, few-step student.

`python -m qsched.embedded dataset|clip|denoiser|distil|export|sheet|evaluate`, in that order; see assets/emoji-lcm/README.md for the recipe and its numbers.
"""
