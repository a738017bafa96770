"""CLIPScore, CLIP-IQA, HPSv2 and LPIPS: the published formulas on the published architectures, with random
weights of them.
"""

import math
import shutil
import sys
from itertools import pairwise
from types import SimpleNamespace

import open_clip
import packaging.version
import pytest
import torch
import torchvision
from embedded_model import PROMPTS, embedded
from open_clip.transform import PreprocessCfg, image_transform_v2
from tiny_scorers import RN, VIT, random_clip, random_lpips, write_scorers
from torchvision.transforms.functional import to_pil_image

from qsched.models.registry import ASSETS
from qsched.sampling.loop import draw_noise, sample
from qsched.scoring import Scorer, jaq_definition, loading, quality_name
from qsched.scoring.clip import ClipModel
from qsched.scoring.clip_iqa import ClipIqa
from qsched.scoring.embedded_clip import EmbeddedScorer
from qsched.scoring.loading import SCORERS
from qsched.scoring.lpips import LINEAR, Lpips
from qsched.scoring.photo import Perceptual, PhotoScorer
from qsched.scoring.similarity import similarity
from qsched.scoring.weights import ScorerError

TEXTS = ["a red apple", "a fox", "two cups of tea on a table"]


def sample_images(count: int = 3, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scorers(tmp_path_factory.mktemp("scorers"))


@pytest.fixture(scope="module", params=["clip-b32", "clip-l14", "hps"])
def scorer(request, folder):
    open_clip.add_model_config(folder / "tiny-hps.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "HPS_ARCHITECTURE", "tiny-hps")
        return loading.load_scorer(request.param, folder=folder)


# every scorer


def test_scores_have_their_range_and_type(scorer):
    assert isinstance(scorer, Scorer)
    scores = scorer.score(sample_images(), TEXTS)
    for values, most in ((scores.alignment, 100), (scores.quality, 1)):
        assert values.shape == (3,) and values.dtype == torch.float32
        assert bool(((values >= 0) & (values <= most)).all()) and float(values.max()) > 0
    torch.testing.assert_close(scores.alignment, scorer.alignment(sample_images(), TEXTS))


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (40, 32)])
def test_scores_do_not_depend_on_the_batch(scorer, size):
    images = sample_images(3, *size)
    together = scorer.score(images, TEXTS)
    for i, text in enumerate(TEXTS):
        alone = scorer.score(images[i : i + 1], [text])
        assert float(alone.alignment[0]) == pytest.approx(float(together.alignment[i]), abs=1e-3)
        assert float(alone.quality[0]) == pytest.approx(float(together.quality[i]), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_float_type_are_scored_in_single_precision(scorer, dtype):
    scores, expected = (
        scorer.score(sample_images().to(dtype), TEXTS),
        scorer.score(sample_images().to(dtype).float(), TEXTS),
    )
    assert scores.alignment.dtype == scores.quality.dtype == torch.float32
    torch.testing.assert_close(scores.alignment, expected.alignment, atol=1e-3, rtol=0)
    torch.testing.assert_close(scores.quality, expected.quality, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_image_that_is_not_finite_scores_as_a_black_one(scorer, bad):
    broken, black = (
        scorer.score(torch.full((1, 3, 64, 64), bad), TEXTS[:1]),
        scorer.score(torch.zeros(1, 3, 64, 64), TEXTS[:1]),
    )
    assert torch.equal(broken.alignment, black.alignment) and torch.equal(broken.quality, black.quality)


def test_the_definition_names_models_weights_and_prompts(scorer):
    expected = {
        "clip-b32": ["ViT-B-32", "vit_base_patch32_clip_224.openai", "RN50", "Good image"],
        "clip-l14": ["ViT-L-14", "vit_large_patch14_clip_224.openai", "RN50", "noisy image"],
        "hps": ["ViT-L-14", "tiny-hps", "xswu/HPSv2", "approximation", "AQ-Map + 2·HPSv2"],
    }
    assert all(word in scorer.definition for word in ["CLIPScore = 100·max(cos, 0)", *expected[scorer.name]])
    assert "\n" not in scorer.definition
    quality = "HPSv2.1" if scorer.name == "hps" else "CLIP-IQA"
    assert (
        quality_name(scorer) == quality and jaq_definition(scorer) == f"JAQ = log(CLIPScore) + k * {quality}"
    )


def test_lpips_comes_with_the_scorer(scorer):
    images = sample_images()
    result = similarity(images, images.flip(-1), scorer.lpips)
    assert result.lpips.shape == (3,) and float(result.lpips.min()) > 0
    assert similarity(images, images, scorer.lpips).lpips.tolist() == [0, 0, 0]
    assert similarity(images, images).lpips is None


# CLIPScore


def test_images_are_prepared_as_open_clip_does():
    model = ClipModel(random_clip_with_settings(), None)
    image = torchvision.transforms.functional.gaussian_blur(sample_images(1, 150, 90), 9)
    theirs = image_transform_v2(PreprocessCfg(size=64), is_train=False)(to_pil_image(image[0]))
    # theirs rounds to 8 bits twice
    torch.testing.assert_close(model._prepared(image)[0], theirs, atol=0.03, rtol=0)


def random_clip_with_settings():
    model = random_clip(VIT, 0)
    open_clip.model.set_model_preprocess_cfg(model, vars(PreprocessCfg(size=64)))
    return model


def test_the_score_is_the_cosine_of_open_clips_own_features():
    own = random_clip_with_settings()
    model = ClipModel(own, open_clip.SimpleTokenizer())
    images = sample_images()
    features = own.encode_image(model._prepared(images), normalize=True)
    texts = own.encode_text(open_clip.tokenize(TEXTS), normalize=True)
    torch.testing.assert_close(model.cosines(images, TEXTS), (features * texts).sum(-1).clamp(min=0))


def test_a_long_prompt_loses_its_end(scorer):
    long, end = "apple " * 75, "and a house on a hill, oil on canvas"
    model = scorer.clip
    assert model.tokenizer([long + end]).shape == (1, 77)
    assert torch.equal(model.texts([long + end]), model.texts([long]))
    assert not torch.equal(model.texts(["apple " + end]), model.texts(["apple "]))


def test_prompts_are_encoded_once(folder):
    model = ClipModel.from_folder(folder / "vit_base_patch32_clip_224.openai", "cpu")
    seen, encode = [], model.model.encode_text
    model.model.encode_text = lambda tokens: seen.append(len(tokens)) or encode(tokens)
    first = model.prompts([*TEXTS, *TEXTS])
    assert torch.equal(model.prompts(TEXTS), first[:3]) and seen == [3]


def test_trained_weights_tell_a_image_from_noise_and_its_prompt_from_others():
    """The trained model at hand is the embedded one: its folder has open_clip's layout, as the Hub's have."""
    backbone, judge = embedded(), ClipModel.from_folder(ASSETS / "emoji-clip", "cpu")
    latents = sample(backbone, backbone.encode(PROMPTS), draw_noise(backbone.latent_shape, 0, [0, 1, 2]), 4)
    images = backbone.decode(latents)
    matrix = judge.images(images) @ judge.texts(PROMPTS).T
    assert matrix.argmax(dim=1).tolist() == [0, 1, 2]
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    assert bool((judge.cosines(images, PROMPTS) > judge.cosines(noise, PROMPTS) + 0.1).all())
    scorer = EmbeddedScorer(ASSETS / "emoji-clip")
    torch.testing.assert_close(
        100 * judge.cosines(images, PROMPTS), scorer.alignment(images, PROMPTS), atol=1e-3, rtol=0
    )


# CLIP-IQA


def test_clip_iqa_equals_pyiqa(monkeypatch):
    # openai-clip asks for it
    monkeypatch.setitem(sys.modules, "pkg_resources", SimpleNamespace(packaging=packaging))
    from pyiqa.archs import clip_model, clipiqa_arch

    state = random_clip(RN, 4).state_dict()
    monkeypatch.setattr(clipiqa_arch, "load", lambda name, device: clip_model.build_model(state).float())
    images = sample_images(2, 96, 160)
    with torch.inference_mode():
        theirs = clipiqa_arch.CLIPIQA().eval()(images).flatten()
    torch.testing.assert_close(ClipIqa(state)(images), theirs, atol=1e-6, rtol=0)


def test_clip_iqa_refuses_tiny_images_and_splits_large_ones(monkeypatch):
    iqa = ClipIqa(random_clip(RN, 3).state_dict())
    with pytest.raises(ValueError, match="at least 32 pixels"):
        iqa(sample_images(1, 31, 64))
    images, sizes = sample_images(5, 64, 64), []
    whole = iqa(images)
    monkeypatch.setattr("qsched.scoring.clip_iqa.PIXELS", 2 * 64 * 64)
    batch = iqa._batch
    monkeypatch.setattr(iqa, "_batch", lambda part: sizes.append(len(part)) or batch(part))
    torch.testing.assert_close(iqa(images), whole, atol=1e-6, rtol=0)
    assert sizes == [2, 2, 1]


# HPSv2


def test_hps_needs_the_prompt(folder):
    from qsched.scoring.hps import HpsScorer

    clip = ClipModel.from_folder(folder / "vit_base_patch32_clip_224.openai", "cpu")
    scorer = HpsScorer(clip, clip, "hps", "test")
    with pytest.raises(ValueError, match="prompt"):
        scorer.quality(sample_images())
    scores = scorer.score(sample_images(), TEXTS)
    torch.testing.assert_close(scores.quality * 100, scores.alignment)


# LPIPS


def test_lpips_equals_pyiqa(monkeypatch, tmp_path):
    from pyiqa.archs import lpips_arch

    trunk, linear = random_lpips()
    net = torchvision.models.alexnet(weights=None)
    net.load_state_dict(trunk, strict=False)
    monkeypatch.setattr(lpips_arch, "models", SimpleNamespace(alexnet=lambda weights: net))
    torch.save(linear, tmp_path / "linear.pth")
    theirs = lpips_arch.LPIPS(pretrained_model_path=str(tmp_path / "linear.pth"))
    images, reference = sample_images(3, 64, 96), sample_images(4, 64, 96)[:3]
    with torch.inference_mode():
        expected = theirs(images, reference).flatten()
    torch.testing.assert_close(Lpips(trunk, linear)(images, reference), expected, atol=1e-6, rtol=1e-5)


def test_lpips_grows_with_damage_and_ignores_the_batch():
    distance, images = Lpips(*random_lpips()), sample_images(20)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    values = [distance((images + amount * noise).clamp(0, 1), images) for amount in (0, 0.02, 0.1, 0.5)]
    assert values[0].tolist() == [0] * 20
    assert all(bool((less < more).all()) for less, more in pairwise(values))
    alone = distance((images + 0.1 * noise).clamp(0, 1)[19:], images[19:])
    assert float(alone[0]) == pytest.approx(float(values[2][19]), rel=1e-4)


def test_lpips_that_cannot_be_had_is_left_out_and_asked_for_when_its_weights_have_come():
    asked, here = [], []

    def load():
        asked.append(1)
        if len(asked) < 3:
            raise ScorerError("no weights")
        return Lpips(*random_lpips())

    scorer = PhotoScorer(None, None, "x", "x", Perceptual(load, lambda: bool(here)))
    assert similarity(sample_images(), sample_images(), scorer.lpips).lpips is None
    assert scorer.lpips(sample_images(), sample_images()) is None and len(asked) == 1
    here.append("damaged")
    assert (
        scorer.lpips(sample_images(), sample_images()) is None and not scorer.lpips.ready and len(asked) == 2
    )
    here.clear()
    assert not scorer.lpips.ready
    here.append("whole")
    assert (
        scorer.lpips(sample_images(), sample_images().flip(-1)).min() > 0
        and scorer.lpips.ready
        and len(asked) == 3
    )
    assert not PhotoScorer(None, None, "x", "x").lpips.ready


def test_lpips_appears_as_soon_as_its_files_are_there(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "scorers")
    place = tmp_path / "scorers" / LINEAR.folder_name
    place.rename(tmp_path / "later")
    scorer = loading.load_scorer("clip-b32", folder=tmp_path / "scorers")
    assert scorer.lpips(sample_images(), sample_images().flip(-1)) is None
    (tmp_path / "later").rename(place)
    assert loading.load_scorer("clip-b32", folder=tmp_path / "scorers") is scorer
    assert scorer.lpips(sample_images(), sample_images().flip(-1)).min() > 0


# the published architectures, as shapes only


@pytest.mark.parametrize(
    ("architecture", "width", "parameters"),
    [("ViT-B-32", 512, 151.3e6), ("ViT-L-14", 768, 427.6e6), ("ViT-H-14", 1024, 986.1e6)],
)
def test_real_architectures_fit_the_scorer(architecture, width, parameters):
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(architecture))
        open_clip.model.set_model_preprocess_cfg(model, vars(PreprocessCfg(size=224)))
        clip = ClipModel(model, open_clip.get_tokenizer(architecture), "meta")
        assert clip.size == (224, 224)
        assert clip.images(torch.zeros(2, 3, 512, 512)).shape == (2, width)
        assert clip.texts(TEXTS).shape == (3, width)
    assert architecture in (
        loading.HPS_ARCHITECTURE,
        *(spec.weights[0].title.split()[1] for spec in SCORERS.values()),
    )
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=1e-3)


def test_open_clips_rn50_is_pyiqas_rn50_tensor_for_tensor():
    from pyiqa.archs.clip_model import CLIP

    with torch.device("meta"):
        theirs = open_clip.CLIP(**open_clip.get_model_config("RN50")).state_dict()
        network = CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12)
        shape = network.visual(torch.zeros(2, 3, 512, 512)).shape
    assert {name: t.shape for name, t in network.state_dict().items()} == {
        name: t.shape for name, t in theirs.items()
    }
    assert shape == (2, 1024)
