"""Sessions, the device's thread and running searches; knows no gradio."""
