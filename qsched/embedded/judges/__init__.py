"""The embedded judges: tiny CLIP, observer, what they are tested on."""
