"""Shared by the browser tests: the page on a tiny backbone, and one visitor's tab with everything it asked
for.

The tiny backbone runs the real sampling, quantization and comparison on a network of two convolutions, so
that a drag costs milliseconds and a test sees the page, not the model.
"""

import io
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from PIL import Image
from torch import nn

from qsched.models.base import Backbone, Condition
from qsched.models.registry import SPECS
from qsched.presets import Preset, save_preset
from qsched.quantizers.methods import METHODS
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import ImageScores
from qsched.surfaces.surface import Surface

CHROMIUM = Path("/usr/bin/chromium")
QUICK_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs a browser at {CHROMIUM}"),
]
NEEDS_BROWSER = [*QUICK_BROWSER, pytest.mark.slow]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic"]
AXIS = tuple(round(0.8 + 0.04 * i, 4) for i in range(11))
BEST = (1.08, 0.92)
SLOW = 90_000  # milliseconds; a busy machine is no failure


class TwoLayers(nn.Module):
    """A denoiser whose prediction depends on noise, time and prompt, and suffers visibly from few bits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv_in, self.middle = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.conv_out = nn.Conv2d(16, 3, 3, padding=1)
        self.requires_grad_(False)

    def forward(self, latents, wish):
        return 0.9 * latents - 0.5 * wish + self.conv_out(torch.tanh(self.middle(self.conv_in(latents))))


class TinyScorer:
    """Scores that only need to be finite and to differ between images."""

    name, definition = "tiny", "numbers for tests"

    def score(self, images, prompts):
        flat = images.flatten(1)
        return ImageScores(100 * flat.mean(1), flat.std(1).clamp(0, 1))


class TinyBackbone(Backbone):
    """Stands in for the embedded model at a thousandth of its cost."""

    latent_shape = (3, 64, 64)

    def encode(self, prompts):
        wishes = []
        for prompt in prompts:
            torch.manual_seed(sum(map(ord, prompt)))
            wishes.append(nn.functional.interpolate(torch.randn(1, 3, 4, 4), 64, mode="bicubic"))
        wish = torch.cat(wishes)
        return Condition(wish, wish.flatten(1)[:, :8], tuple(len(prompt) > 300 for prompt in prompts))

    def decode(self, latents):
        return (latents / 3 + 0.5).clamp(0, 1).float()

    def preview(self, latents):
        return self.decode(latents)

    def _forward(self, denoiser, latents, timestep, condition):
        return denoiser(latents, condition.embeds)

    def _make_scorer(self):
        return TinyScorer()


def tiny_backbone(id="emoji-lcm", device="auto", source=None):
    """Has the signature of qsched.load_backbone."""
    spec = SPECS[id].at(source) if source else SPECS[id]
    return TinyBackbone(
        spec, torch.device("cpu"), torch.float32, TwoLayers(), LCMScheduler(), "tiny", methods=METHODS
    )


def write_preset(folder: Path, bits: str = "w4a8", steps: int = 4) -> Preset:
    """A preset whose surface has its best cell at BEST, in the shape of a ramp."""
    x, e = np.meshgrid(AXIS, AXIS)
    alignment = 60 - 400 * ((x - BEST[0]) ** 2 + (e - BEST[1]) ** 2)
    surface = Surface(AXIS, AXIS, alignment[..., None], np.full((*alignment.shape, 1), 0.5))
    preset = Preset(
        "emoji-lcm", "tiny", bits, steps, "ramp", Coefficients.ramp(*BEST), surface, prompts=["fox"]
    )
    save_preset(preset, folder / "emoji-lcm" / f"{bits}-{steps}steps.json")
    return preset


def given(tab, **changes):
    """What the page sends: the widgets as they were built, with these changes."""
    c, r = tab.controls, tab.results
    widgets = [*c.settings.values(), c.shape, tab.dark, r.left, r.right, *c.sliders]
    return {widget: widget.value for widget in widgets} | {
        getattr(c, name): value for name, value in changes.items()
    }


@contextmanager
def serving(presets: Path, load=tiny_backbone, talk=False, lend=None):
    """The page on a tiny backbone: (url, engine)."""
    from qsched.server.engine import Engine
    from qsched.ui.page import build_app

    engine = Engine(load=load, presets=presets, lend=lend)
    app = build_app(engine=engine, talk=talk, searches=str(presets / "searches.sqlite3"))
    engine.warm_up()
    _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, mcp_server=True)
    try:
        yield url.rstrip("/"), engine
    finally:
        app.close(verbose=False)


class Visitor:
    """One browser tab with its own session.

    `complaints` holds console output, page errors, failed and foreign requests.
    """

    def __init__(self, browser, url, engine, *, query="", width=1280, height=900, dark=False, touch=False):
        self.engine, self.complaints = engine, []
        known = set(engine.sessions)
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
            accept_downloads=True,
            has_touch=touch, is_mobile=touch,
        )  # fmt: skip
        self.context.route("**/*", lambda route: self._allow(route, url))
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW)
        self.page.on("console", lambda m: self.complaints.append(f"console {m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"page: {error}"))
        self.page.goto(f"{url}/{query}")
        self.page.wait_for_selector("#image-qsched img")
        self.session = self.until(lambda: next(iter(set(engine.sessions) - known), None))
        self.settle()

    def _allow(self, route, url):
        if route.request.url.startswith((url, "data:", "blob:")):
            return route.continue_()
        self.complaints.append(f"foreign: {route.request.url}")
        return route.abort()

    @property
    def held(self):
        """The server's session of this tab."""
        return self.engine.session(self.session)

    @property
    def comparison(self):
        """What the server holds for this tab."""
        return self.held.comparison

    def until(self, check, message="nothing"):
        """Wait for a true value."""
        end = time.monotonic() + SLOW / 1000
        while time.monotonic() < end:
            if value := check():
                return value
            self.page.wait_for_timeout(20)
        raise AssertionError(f"waited in vain: {message}")

    def number(self, name):
        """The value of a slider's number box."""
        return float(self.page.locator(f"#{name} input[type=number]").input_value())

    def image(self, name="qsched"):
        """The image on the page as an array."""
        source = self.page.locator(f"#image-{name} img").get_attribute("src")
        return np.asarray(Image.open(io.BytesIO(urlopen(source).read())).convert("RGB"))

    def shows(self, column, name="qsched"):
        """Whether the page shows this column's image, enlarged by a whole factor."""
        shown, factor = self.image(name), self.image(name).shape[0] // column.image.height
        return bool((shown[::factor, ::factor] == np.asarray(column.image)).all())

    def settle(self):
        """Wait until the page shows what the server holds."""
        self.until(
            lambda: self.shows(self.comparison.qsched), "the Q-Sched image on the page is not the server's"
        )

    def stands_at(self, *point):
        """Wait until the sliders, the server and the image agree on (c_x, c_eps)."""
        first = lambda value: value[0] if isinstance(value, tuple) else value
        at = lambda: (first(self.comparison.coefficients.c_x), first(self.comparison.coefficients.c_eps))
        self.until(lambda: np.allclose(at(), point), f"the server should stand at {point}, not {at()}")
        self.until(
            lambda: np.allclose((self.number("c_x"), self.number("c_eps")), point), f"the sliders at {point}"
        )
        self.settle()

    def drag(self, name, *stops):
        """Drag a slider's thumb through fractions of its track; the mouse button stays down until
        the last.
        """
        track = self.page.locator(f"#{name} input[type=range]")
        track.scroll_into_view_if_needed()
        box, low, high = track.bounding_box(), 0.5, 1.5
        x = lambda part: box["x"] + 8 + (box["width"] - 16) * part
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(x((self.number(name) - low) / (high - low)), y)
        self.page.mouse.down()
        for stop in stops:
            self.page.mouse.move(x(stop), y, steps=8)
        self.page.mouse.up()

    def toast(self):
        """The text of the newest toast."""
        toast = self.page.locator(".toast-body").last
        toast.wait_for()
        return toast.inner_text()

    def close(self):
        self.context.close()
