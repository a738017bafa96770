"""How the embedded text-to-emoji model is made: data set, tiny CLIP, denoiser, few-step student.

`python -m qsched.embedded dataset|damage|clip|observer|denoiser|distil|export|sheet|evaluate`, in that order, or `whole` for all training at once; the weights in
assets/ were made by an earlier, narrower form of it, which assets/emoji-lcm/README.md tells with its numbers.
"""
