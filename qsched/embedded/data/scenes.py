"""Images composed while training: one to three emoji, side by side or stacked, small or big, on white,
coloured or two-tone grounds.

Only the single emoji are stored (64 px, colour times opacity); a scene is drawn from (seed, step), so a run
that was killed and resumed sees the same scenes.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qsched.embedded.data.dataset import Emoji
from qsched.embedded.data.words import ONE_SIDED, Words

GROUNDS = {
    "white": (255, 255, 255),
    "black": (35, 35, 40),
    "gray": (175, 180, 185),
    "red": (225, 75, 70),
    "orange": (250, 160, 60),
    "yellow": (250, 225, 90),
    "green": (105, 190, 105),
    "blue": (75, 155, 235),
    "purple": (155, 95, 205),
    "pink": (245, 155, 190),
    "brown": (150, 110, 85),
}
GROUND_JITTER = 0.03
SIZES = {"small": 0.5, "": 1.0, "big": 1.35}
PLACES = {
    ("one", 1): ((0.0, 0.0),),
    ("beside", 2): ((-0.46, 0.0), (0.46, 0.0)),
    ("stacked", 2): ((0.0, -0.46), (0.0, 0.46)),
    ("beside", 3): ((0.0, -0.44), (-0.46, 0.44), (0.46, 0.44)),
}
SCALES = {1: 1.0, 2: 0.56, 3: 0.54}


@dataclass(frozen=True)
class Mix:
    """How often a scene is of each kind; what remains is one emoji on white.

    Of the scenes of several, `counted` show one concept several times.
    """

    ground: float = 0.17
    two_tone: float = 0.06
    sized: float = 0.06
    two: float = 0.13
    three: float = 0.06
    counted: float = 0.4
    several_on_ground: float = 0.5


PLAIN = Mix(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Jitter:
    """Changes that leave an image what it is, for judges that shall not learn it by heart: place and zoom in
    canvas halves, turn in degrees, gain of colours.

    Half the images are mirrored too, but none whose name tells a side (`words.ONE_SIDED`).
    """

    place: float = 0.1
    zoom: float = 0.25
    turn: float = 12.0
    gain: float = 0.12


@dataclass
class Drawn:
    """A batch of scenes.

    images: float32 (batch, 3, 64, 64) in [0, 1]; captions; first: index of the (first) image shown, int64
        (batch,); single: bool (batch,), whether it is alone.
    """

    images: Tensor
    captions: list[str]
    first: Tensor
    single: Tensor


class Scenes:
    """Draws scenes from the images that may be used.

    Args:
        usable: indices of images, int64 (n,).
        jitter: None leaves single emoji exactly as they are stored.
    """

    def __init__(
        self,
        emoji: Emoji,
        usable: Tensor,
        mix: Mix = Mix(),
        jitter: Jitter | None = None,
        seed: int = 0,
        where: torch.device | str = "cpu",
    ):
        self.mix, self.jitter, self.seed, self.where = mix, jitter, seed, torch.device(where)
        self.words = Words(emoji.concepts, emoji.tags, emoji.styles)
        self.concept, self.style = emoji.concept.numpy(), emoji.style.numpy()
        self.one_sided = torch.tensor([bool(ONE_SIDED.search(c)) for c in emoji.concepts])[emoji.concept]
        self.usable = usable.numpy()
        self.by_style = {s: self.usable[self.style[self.usable] == s] for s in range(len(emoji.styles))}
        self.cutouts = emoji.cutouts().to(self.where)
        self.halves = F.avg_pool2d(self.cutouts.float(), 2).round().to(torch.uint8)

    def draw(self, count: int, step: int) -> Drawn:
        """The scenes of one training step."""
        rng = np.random.default_rng((self.seed, step))
        first = rng.choice(self.usable, size=count, replace=len(self.usable) < count)
        slots, grounds, captions, single = [], [], [], []
        for row, index in enumerate(first):
            indices, layout, size, colours = self._plan(int(index), rng)
            concepts, style = [int(self.concept[i]) for i in indices], int(self.style[index])
            plain = len(indices) == 1 and not size and not colours
            captions.append(
                self.words.single(concepts[0], style, rng)
                if plain
                else self.words.scene(concepts, style, layout, size, colours, rng)
            )
            for i, (x, y) in zip(indices, PLACES[layout, len(indices)], strict=True):
                slots.append((row, i, x, y, SCALES[len(indices)] * SIZES[size]))
            grounds.append(self._ground(colours, rng))
            single.append(len(indices) == 1)
        images = self._compose(slots, grounds, rng)
        return Drawn(images, captions, torch.from_numpy(first), torch.tensor(single))

    def _plan(self, index: int, rng: np.random.Generator) -> tuple[list[int], str, str, list[str]]:
        """What one scene shows: image indices, layout, size, names of the ground's colours."""
        mix, lot = self.mix, rng.random()
        colours = lambda n: [str(c) for c in rng.choice(list(GROUNDS), size=n, replace=False)]
        for share, count in ((mix.two, 2), (mix.three, 3)):
            if lot < share:
                same = rng.random() < mix.counted
                mates = self.by_style[int(self.style[index])]
                others = [index] * (count - 1) if same else rng.choice(mates, size=count - 1).tolist()
                layout = "stacked" if count == 2 and not same and rng.random() < 0.4 else "beside"
                return (
                    [index, *others],
                    layout,
                    "",
                    colours(1) if rng.random() < mix.several_on_ground else [],
                )
            lot -= share
        if lot < mix.ground:
            return [index], "one", "", colours(1)
        if lot < mix.ground + mix.two_tone:
            return [index], "one", "", colours(2)
        if lot < mix.ground + mix.two_tone + mix.sized:
            size = "small" if rng.random() < 0.6 else "big"
            return [index], "one", size, colours(1) if rng.random() < mix.several_on_ground else []
        return [index], "one", "", []

    @staticmethod
    def _ground(colours: list[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, bool]:
        """Colours of the first and second half, and whether the halves lie side by side."""
        shades = [np.array(GROUNDS[c]) / 255 for c in colours or ["white"]]
        if colours:
            shades = [np.clip(s + rng.uniform(-GROUND_JITTER, GROUND_JITTER, 3), 0, 1) for s in shades]
        return shades[0], shades[-1], bool(rng.random() < 0.5)

    def _compose(self, slots: list[tuple], grounds: list[tuple], rng: np.random.Generator) -> Tensor:
        """Lay every slot (row, image, x, y, scale) over its row's ground."""
        rows, indices = (torch.tensor([s[i] for s in slots], device=self.where) for i in (0, 1))
        placed = torch.tensor([s[2:] for s in slots], dtype=torch.float32)
        size = self.cutouts.shape[-1]
        out = self._backgrounds(grounds, size)
        exact = torch.zeros(len(slots), dtype=torch.bool)
        if self.jitter is None:
            exact = (placed == torch.tensor([0.0, 0.0, 1.0])).all(1)
        layers = torch.empty(len(slots), 4, size, size, device=self.where)
        layers[exact] = self.cutouts[indices[exact]].float() / 255
        theta = self._theta(placed, indices.cpu(), rng).to(self.where)
        small = placed[:, 2] < 0.75
        for chosen, source in ((~exact & ~small, self.cutouts), (~exact & small, self.halves)):
            if chosen.any():
                grid = F.affine_grid(theta[chosen], [int(chosen.sum()), 4, size, size], align_corners=False)
                layers[chosen] = F.grid_sample(
                    source[indices[chosen]].float() / 255, grid, align_corners=False
                )
        if self.jitter is not None:
            gain = torch.from_numpy(rng.uniform(-1, 1, (len(slots), 4))).float().to(self.where)
            gain = 1 + self.jitter.gain * (0.6 * gain[:, :1] + 0.4 * gain[:, 1:])
            layers[:, :3] = torch.minimum(layers[:, :3] * gain[..., None, None], layers[:, 3:])
        # A row's layers follow one another; how many times a row has come so far tells which pass lays it.
        order = torch.tensor(
            [sum(s[0] == r for s in slots[max(0, i - 2) : i]) for i, (r, *_) in enumerate(slots)]
        )
        for turn in range(int(order.max()) + 1):
            now = order == turn
            out[rows[now]] = layers[now, :3] + (1 - layers[now, 3:]) * out[rows[now]]
        return out.clamp_(0, 1)

    def _backgrounds(self, grounds: list[tuple], size: int) -> Tensor:
        """The grounds as images (batch, 3, size, size)."""
        first, second = (
            torch.from_numpy(np.stack([g[i] for g in grounds])).float().to(self.where) for i in (0, 1)
        )
        beside = torch.tensor([g[2] for g in grounds], device=self.where).view(-1, 1, 1, 1)
        late = torch.arange(size, device=self.where) >= size // 2
        half = torch.where(beside, late.view(1, 1, 1, -1), late.view(1, 1, -1, 1))
        return torch.where(half, second[..., None, None], first[..., None, None])

    def _theta(self, placed: Tensor, indices: Tensor, rng: np.random.Generator) -> Tensor:
        """Maps from canvas to image, (slots, 2, 3), for places and scales (slots, 3) of images (slots,)."""
        x, y, scale = placed.unbind(1)
        turn, flip = torch.zeros(len(placed)), torch.ones(len(placed))
        if self.jitter is not None:
            noise = torch.from_numpy(rng.uniform(-1, 1, (len(placed), 4))).float()
            x, y = x + self.jitter.place * noise[:, 0] * scale, y + self.jitter.place * noise[:, 1] * scale
            scale = scale * torch.exp(self.jitter.zoom * (noise[:, 2] - 0.4))
            turn = torch.deg2rad(self.jitter.turn * noise[:, 3])
            flip = torch.from_numpy(rng.choice([-1.0, 1.0], len(placed))).float()
            flip[self.one_sided[indices]] = 1
        cos, sin = turn.cos() / scale, turn.sin() / scale
        rows = torch.stack([flip * cos, flip * sin, -sin, cos], 1).view(-1, 2, 2)
        return torch.cat([rows, -rows @ torch.stack([x, y], 1).unsqueeze(-1)], 2)
