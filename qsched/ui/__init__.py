"""The page: Gradio Blocks that wire widgets to the maths. Nothing outside this folder imports gradio."""
