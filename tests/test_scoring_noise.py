"""Noise against a clean image, for every scorer, on random weights of the right architecture that were turned
to like it.

A random text tower knows nothing of images. Reflecting its last projection so that the prompt points from the
noise to the clean image makes one that does, and everything else on the way from files to scores has to keep
that order.
"""

from itertools import pairwise

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_scorers import RN, VIT, random_lpips, write_scorers
from torch import Tensor

from qsched.scoring import loading
from qsched.scoring.clip_iqa import MEAN, PAIRS, STD, ClipIqa
from qsched.scoring.loading import CLIP_B32, CLIP_L14, CLIP_RN50, HPS
from qsched.scoring.lpips import Lpips

PROMPT = "a red apple"
NOISE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def clean() -> Tensor:
    """A ball before a sky, (1, 3, 64, 64)."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    ball = ((0.6 - (x**2 + y**2).sqrt()) * 8).sigmoid()
    return torch.stack([0.3 + 0.6 * ball, 0.5 + 0.2 * y - 0.3 * ball, 0.8 - 0.6 * ball])[None].clamp(0, 1)


def reflected(state: dict, text: Tensor, wanted: Tensor) -> dict:
    """Weights whose texts are mirrored so that `text` points where `wanted` does."""
    difference = F.normalize(text, dim=-1) - F.normalize(wanted, dim=-1)
    mirror = torch.eye(len(text)) - 2 * torch.outer(difference, difference) / difference.square().sum()
    return state | {"text_projection": state["text_projection"].float() @ mirror}


def liking_clean(state: dict) -> dict:
    """A ViT that finds the prompt in the clean image and not in the noise."""
    model = open_clip.CLIP(**VIT).eval()
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    shift, scale = (
        torch.tensor(x)[:, None, None] for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.inference_mode():
        good, bad = (
            model.encode_image((image - shift) / scale, normalize=True)[0] for image in (clean(), NOISE)
        )
        return reflected(state, model.encode_text(open_clip.tokenize([PROMPT]))[0], good - bad)


def liking_quality(state: dict) -> dict:
    """An RN50 to which the clean image is good and the noise bad."""
    iqa, model = ClipIqa(state), open_clip.CLIP(**RN).eval()
    model.load_state_dict(state)
    shift, scale = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    seen = lambda image: F.normalize(iqa.model.encode_image((image - shift) / scale, False), dim=-1)[0]
    with torch.inference_mode():
        texts = [
            model.encode_text(open_clip.tokenize(list(side)), normalize=True).sum(0)
            for side in zip(*PAIRS, strict=True)
        ]
        return reflected(state, texts[0] - texts[1], seen(clean()) - seen(NOISE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_scorers(tmp_path_factory.mktemp("scorers"))
    for weights, turned in ((CLIP_B32, liking_clean), (CLIP_L14, liking_clean), (CLIP_RN50, liking_quality)):
        file = folder / weights.folder_name / "open_clip_model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in turned(load_file(file)).items()}, file)
    file = folder / HPS.folder_name / HPS.source.files[0]
    state = torch.load(file, weights_only=True)
    torch.save(state | {"state_dict": liking_clean(state["state_dict"])}, file)
    return folder


@pytest.mark.parametrize("name", ["clip-b32", "clip-l14", "hps"])
def test_noise_scores_below_the_clean_image(name, folder, monkeypatch):
    open_clip.add_model_config(folder / "tiny-hps.json")
    monkeypatch.setattr(loading, "HPS_ARCHITECTURE", "tiny-hps")
    scorer = loading.load_scorer(name, folder=folder)
    steps = torch.cat([torch.lerp(clean(), NOISE, share) for share in (0.0, 0.5, 1.0)])
    scores = scorer.score(steps, [PROMPT] * 3)
    assert scores.alignment[0] > scores.alignment[2] and scores.quality[0] > scores.quality[2]
    assert scores.alignment[2] == 0 < scores.alignment[0] and scores.quality[0] > scores.quality[2] + 1e-3


def test_lpips_grows_from_the_clean_image_to_noise():
    distance = Lpips(*random_lpips())
    found = [float(distance(torch.lerp(clean(), NOISE, share), clean())[0]) for share in (0.0, 0.1, 0.3, 1.0)]
    assert found[0] == 0 and all(less < more for less, more in pairwise(found))
