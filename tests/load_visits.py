"""Visitors that put load on a served page: over HTTP as the page's own script asks, and in real browsers."""

import asyncio
import io
import itertools
import json
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx
import numpy as np
from browser_app import CHROMIUM, FLAGS
from PIL import Image

PROMPTS = ("a red apple", "a fox", "a blue butterfly", "a slice of pizza", "a smiling face", "a green frog")
BITS = ("w4a8", "w3a8", "w2a8")
DRAGS = 6
"""Positions of one gesture; after each gesture the hand rests, and after every third it generates."""
REST_S = 1.0
PATIENCE_S = 180.0
"""What was asked before the end may be answered so much later; then a visitor gives up, which is an error."""


@dataclass
class Seen:
    """What visitors saw: errors, seconds of each kind of event, the highest queue position, and images with
    what they belong to: (prompt, seed, bits, c_x, c_eps, image)."""

    errors: list[str] = field(default_factory=list)
    drags: list[float] = field(default_factory=list)
    generated: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    positions: list[str] = field(default_factory=list)
    images: list[tuple] = field(default_factory=list)
    frames: int = 0

    def __iadd__(self, other: "Seen") -> "Seen":
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


class Page:
    """What the server says about its page: the events by name, and each widget's id and first value."""

    def __init__(self, config: dict):
        self.events = {event["api_name"]: event for event in config["dependencies"]}
        self.names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        self.values = {part["id"]: part["props"].get("value") for part in config["components"]}


class HttpVisitor:
    """One session without a browser: keeps its connection open as a tab does, drags and generates."""

    def __init__(self, client: httpx.AsyncClient, page: Page, name: str, number: int):
        self.client, self.page, self.name, self.seen = client, page, name, Seen()
        self.random, self.number = random.Random(number), number
        self.values = dict(page.values)
        self.set(
            prompt=PROMPTS[number % len(PROMPTS)],
            bits=BITS[number % len(BITS)],
            seed=number,
            shape="constant",
        )
        self.image, self.shown = None, None

    def set(self, **values) -> None:
        """Fill widgets in."""
        for name, value in values.items():
            (id,) = [id for id, known in self.page.names.items() if known == name]
            self.values[id] = value

    def get(self, name: str):
        """A widget's value."""
        return next(self.values[id] for id, known in self.page.names.items() if known == name)

    async def send(self, name: str, keep=lambda message: None) -> list | None:
        """The answer to one event, None after an error; keep: sees each message of the queue."""
        event = self.page.events[name]
        body = {"fn_index": event["id"], "data": [self.values[id] for id in event["inputs"]]}
        body |= {"session_hash": self.name, "event_data": None, "trigger_id": None}
        if not event["queue"]:
            answer = await self.client.post("/gradio_api/run/predict", json=body)
            return self._answered(name, event, answer.json() if answer.is_success else {"error": answer.text})
        joined = await self.client.post("/gradio_api/queue/join", json=body)
        if "event_id" not in joined.text:
            return self._answered(name, event, {"error": joined.text})
        where = {"session_hash": self.name}
        async with self.client.stream("GET", "/gradio_api/queue/data", params=where) as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                keep(message)
                if message.get("msg") == "estimation":
                    self.seen.ranks.append(message["rank"])
                if message.get("msg") == "process_completed":
                    output = message["output"]
                    return self._answered(name, event, output if message["success"] else {"error": output})
        return self._answered(name, event, {"error": "the stream ended without an answer"})

    def _answered(self, name: str, event: dict, answer: dict) -> list | None:
        if "data" not in answer:
            self.seen.errors.append(f"{name}: {answer.get('error')}")
            return None
        for id, value in zip(event["outputs"], answer["data"], strict=True):
            known, update = self.page.names.get(id), isinstance(value, dict) and "__type__" in value
            value = value.get("value") if update else value
            if known == "hint" and value:
                self.seen.errors.append(f"{name}: {value}")
            if known == "image-qsched" and value:
                self.image = value["url"] or f"/gradio_api/file={value['path']}"
        return answer["data"]

    async def drag(self) -> None:
        """One position of the sliders."""
        c_x, c_eps = (round(self.random.uniform(0.8, 1.2), 2) for _ in range(2))
        self.set(c_x=c_x, c_eps=c_eps)
        begin = time.monotonic()
        if await self.send("adjust") is not None:
            self.seen.drags.append(time.monotonic() - begin)
            self.shown = c_x, c_eps

    async def generate(self) -> None:
        """Another seed, at the coefficients that the sliders show."""
        self.set(seed=self.random.randrange(10**6))
        begin = time.monotonic()
        if await self.send("generate") is not None:
            self.seen.generated.append(time.monotonic() - begin)

    async def look(self) -> None:
        """Keep the image that is shown, with what it belongs to."""
        if self.image and self.shown:
            answer = await self.client.get(self.image)
            self.seen.images.append(
                (self.get("prompt"), self.get("seed"), self.get("bits"), *self.shown, pixels(answer.content))
            )

    async def visit(self, until: float) -> Seen:
        """Open the page, drag and generate until then, close it; answers may come PATIENCE_S later."""
        try:
            await asyncio.wait_for(self.stay(until), until - time.monotonic() + PATIENCE_S)
        except (httpx.HTTPError, asyncio.TimeoutError) as error:
            self.seen.errors.append(f"{self.name}: {type(error).__name__} {error}")
        return self.seen

    async def stay(self, until: float) -> None:
        """What `visit` does, however long it takes."""
        async with self.client.stream("GET", f"/gradio_api/heartbeat/{self.name}") as tab:
            beats = asyncio.create_task(drained(tab))
            try:
                if await self.send("open") is not None and await self.send("furnish") is not None:
                    await self.drag()
                    await self.generate()
                    await self.use(until)
                    await self.look()
            finally:
                beats.cancel()

    async def use(self, until: float) -> None:
        """One gesture after the other, and another seed after every third."""
        for turn in itertools.count(1):
            for _ in range(DRAGS):
                if time.monotonic() >= until:
                    return
                await self.drag()
            await asyncio.sleep(REST_S * self.random.uniform(0.5, 1.5))
            if turn % 3 == 0 and time.monotonic() < until:
                await self.generate()


async def drained(stream: httpx.Response) -> None:
    """Read what the server says to an open tab."""
    async for _ in stream.aiter_lines():
        pass


def pixels(data: bytes) -> np.ndarray:
    """An image file as (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def browse(url: str, number: int, until: float) -> Seen:
    """One real browser that drags and generates until then, and reads the queue position off the page."""
    from playwright.sync_api import Error, sync_playwright

    seen, luck = Seen(), random.Random(1000 + number)
    asked = {"prompt": PROMPTS[number % len(PROMPTS)], "bits": BITS[number % len(BITS)], "seed": number}
    asked |= {"shape": "constant", "c_x": 0.9, "c_eps": 1}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=[*FLAGS, "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("pageerror", lambda error: seen.errors.append(f"page: {error}"))
        try:
            page.goto(f"{url}?{urlencode(asked)}")
            page.wait_for_function("document.querySelector('#image-qsched img')?.naturalWidth > 0")
            while time.monotonic() < until:
                hand(page, luck)
                asked["seed"] = luck.randrange(10**6)
                page.fill("#seed input", str(asked["seed"]))
                page.click("#generate")
                give_up = time.monotonic() + PATIENCE_S
                while page.evaluate("document.body.classList.contains('busy')"):
                    if time.monotonic() > give_up:
                        raise Error("no answer to Generate")
                    seen.positions += page.locator("#waiting p:visible").all_inner_texts()
                    page.wait_for_timeout(200)
                page.wait_for_timeout(1000 * REST_S)
            settled(page)
            source = page.locator("#image-qsched img").get_attribute("src")
            at = (
                float(page.locator(f"#{name} input[type=number]").input_value()) for name in ("c_x", "c_eps")
            )
            image = pixels(httpx.get(source, trust_env=False, timeout=120).content)
            seen.images.append((asked["prompt"], asked["seed"], asked["bits"], *at, image))
            seen.errors += page.locator(".toast-body.error").all_inner_texts()
        except Error as error:
            seen.errors.append(f"browser {number}: {str(error).splitlines()[0]}")
        browser.close()
    return seen


def hand(page, luck: random.Random) -> None:
    """Drag one slider for a second."""
    track = page.locator(f"#{luck.choice(('c_x', 'c_eps'))} input[type=range]")
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    x, y = (lambda: box["x"] + box["width"] * luck.uniform(0.3, 0.7)), box["y"] + box["height"] / 2
    page.mouse.move(x(), y)
    page.mouse.down()
    for _ in range(4):
        page.mouse.move(x(), y, steps=6)
        page.wait_for_timeout(250)
    page.mouse.up()


def settled(page) -> None:
    """Wait until the page has shown the same image for some seconds."""
    source, since = None, time.monotonic()
    while time.monotonic() - since < 5:
        now = page.locator("#image-qsched img").get_attribute("src")
        if now != source:
            source, since = now, time.monotonic()
        page.wait_for_timeout(250)
