"""Colours, type and spacing. System fonts only, so that the page asks no other host for anything."""

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent
ACCENT = gr.themes.Color(
    c50="#fff5f0", c100="#ffe7dc", c200="#ffcdb8", c300="#ffa988", c400="#ff7f52", c500="#f4622f",
    c600="#d9480f", c700="#b53a0a", c800="#8f310f", c900="#742c12", c950="#3f1305",
)  # fmt: skip
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """A calm theme: white cards on a warm page, hairlines instead of boxes, one accent colour."""
    return gr.themes.Base(
        primary_hue=ACCENT, secondary_hue=ACCENT, neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md, font=FONT, font_mono=MONO
    ).set(
        body_background_fill="#f6f6f3",
        body_background_fill_dark="#06080f",
        body_text_color="#111827",
        body_text_color_dark="#f3f4f6",
        body_text_color_subdued="#5b6472",
        body_text_color_subdued_dark="#a3adbd",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#0b0f19",
        background_fill_secondary="#ffffff",
        background_fill_secondary_dark="#0b0f19",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_text_color="*body_text_color_subdued",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_title_text_size="*text_sm",
        block_title_text_weight="500",
        border_color_primary="#e4e4de",
        border_color_primary_dark="#1e2536",
        input_background_fill="#ffffff",
        input_background_fill_dark="#111726",
        input_border_color="#d9d9d2",
        input_border_color_dark="#2a3347",
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px rgba(217, 72, 15, 0.18)",
        input_border_color_focus="*primary_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#f1f1ec",
        button_secondary_background_fill_dark="#151c2c",
        button_secondary_background_fill_hover_dark="#1d2639",
        button_secondary_border_color="#d9d9d2",
        button_secondary_border_color_dark="#2a3347",
        button_border_width="1px",
        button_large_text_weight="600",
        button_medium_text_weight="550",
        button_medium_text_size="*text_md",
        button_medium_padding="8px 12px",
        button_medium_radius="*radius_md",
        block_title_padding="0px",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        layout_gap="14px",
    )  # fmt: skip


ONE_COLUMN, ONE_COLUMN_TALK = 1100, 1600
"""Width in pixels up to which the Compare tab has one column."""
HALL = 860
"""Width in pixels from which a talk's type is large."""


def css(talk: bool = False) -> str:
    """The page's style sheet; `talk` gives it one column up to a wider window."""
    narrow = f"@media (max-width: {ONE_COLUMN_TALK if talk else ONE_COLUMN}px) {{\n{_read('narrow.css')}}}\n"
    return _read("style.css") + _read("search.css") + narrow


def head(talk: bool = False) -> str:
    """The page's scripts, and styles that gradio would not leave as they are, inline: no request is needed.

    It puts its own container before every selector inside a media query, also before the body.

    Args:
        talk: everything readable from the last row, and the tour; but not on the phones of the audience.
    """
    styles = [f"<style>{_read(name)}</style>" for name in ("scores.css", "phone.css")]
    scripts = [f"<script>{_read('page.js')}</script>"]
    if talk:
        styles += [f'<style media="(min-width: {HALL}px)">{_read("talk.css")}</style>']
        styles += [f"<style>{_read('tour.css')}</style>"]
        scripts += [f"<script>{_read('tour.js')}</script>"]
    return "".join(scripts + styles)


def _read(name: str) -> str:
    return (HERE / name).read_text("utf-8")
