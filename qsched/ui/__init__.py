"""The page: Gradio Blocks that wire widgets to the maths. Nothing outside this folder imports gradio."""

from qsched.ui.page import build_app

__all__ = ["build_app"]
