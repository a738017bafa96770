"""The judges of the embedded model: the tiny CLIP and what it is measured by, the observer, the Frechet
distance, the damage file, the sheet.
"""

import numpy as np
import pytest
import torch
from embedded_model import embedded
from scipy.linalg import sqrtm
from torch.nn import functional as F

from qsched.embedded import report, variety
from qsched.embedded.data import dataset, scenes
from qsched.embedded.judges import clip, clip_training, damage, frechet, judging, observer, restyle


@pytest.fixture(scope="module")
def judge(emoji, tmp_path_factory):
    torch.manual_seed(0)
    model, tokenizer = clip.new_clip(tmp_path_factory.mktemp("clip"), emoji)
    return judging.Judge(model.eval(), tokenizer, torch.device("cpu"))


@pytest.fixture(scope="module")
def spoilt():
    return damage.make(
        embedded(), ["fox, flat style", "owl, classic style", "cow, glossy style", "pig, flat style"]
    )


def test_auc_counts_pairs_and_ties():
    assert judging.auc(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0])) == 1
    assert judging.auc(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])) == 0.5
    assert judging.auc(torch.tensor([0.0]), torch.tensor([1.0, 2.0, -1.0])) == pytest.approx(1 / 3)


def test_a_concept_ranks_by_its_best_caption():
    texts = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [-1, 0]])  # two concepts in two styles
    features = torch.tensor([[1.0, 0], [0.6, 0.8]])
    assert judging.concept_ranks(features, texts, 2, torch.tensor([0, 0])).tolist() == [0, 1]
    assert judging.concept_ranks(features, texts, 2, torch.tensor([1, 1])).tolist() == [1, 0]


def test_trimmed_texts_equal_open_clips_own_encoding(judge):
    texts = ["fox", "an emoji of a red apple in front of a blue background", "owl and pig"]
    # several groups, out of order
    tokens = judge.tokenizer([f"{texts[i % 3]} {'ant ' * (i % 5)}" for i in range(90)])
    with torch.no_grad():
        ours, theirs = clip.encode_texts(judge.model, tokens), judge.model.encode_text(tokens, normalize=True)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_measures_of_a_judge_that_has_learnt_nothing_are_those_of_chance(judge, emoji, spoilt):
    found = judging.measure(judge, emoji, spoilt)
    assert found["retrieval"]["count"] == int(emoji.held_out.sum())
    assert set(found["auc_by_kind"]) == set(clip_training.degradations.KINDS)
    assert all(0 <= v <= 1 for row in found["auc_by_kind"].values() for v in row.values())
    assert set(found["quantization"]["auc_by_bits"]) == set(damage.BITS)
    assert "top-1" in judging.markdown(found)
    assert {"top1", "auc", "quantized_auc"} <= set(judging.brief(found))


@pytest.mark.slow
def test_a_perfect_judge_gets_perfect_marks(spoilt):
    spoilt = damage.Damage(**{**vars(spoilt), "test": torch.ones(4, dtype=torch.bool)})

    class Knowing:
        def quality(self, images):
            truth = {
                tuple(p[:, 9:20, 9].flatten().tolist()): -float(e) for p, e in zip(whole, errors, strict=True)
            }
            return torch.tensor([truth[tuple(p[:, 9:20, 9].flatten().tolist())] for p in images])

    whole, errors = (spoilt.images.float() / 255).flatten(0, 1), spoilt.error.flatten()
    found = judging.against_quantization(Knowing(), spoilt)
    assert found["auc"] == 1 and found["rank_correlation"] == pytest.approx(-1)
    assert set(found["within_prompt"].values()) == {1.0}


@pytest.mark.slow
def test_the_damage_file_keeps_what_the_quantized_models_drew(spoilt, tmp_path):
    assert spoilt.images.shape == (4, len(damage.KINDS), 3, 64, 64) and spoilt.steps.tolist() == [1, 2, 4, 8]
    error = dict(zip(damage.KINDS, spoilt.error.mean(0).tolist(), strict=True))
    assert error["full precision"] == 0 < error["w8a8"] < error["w4a8"] < error["w2a8"] and error["bent"] > 0
    with pytest.raises(FileNotFoundError, match="damage"):
        damage.load(tmp_path / "none.npz")
    damage.save(spoilt, tmp_path / "damage.npz")
    again = damage.load(tmp_path / "damage.npz")
    assert torch.equal(again.images, spoilt.images) and again.prompts == spoilt.prompts
    same = damage.make(embedded(), spoilt.prompts)
    assert (same.images.int() - spoilt.images.int()).abs().max() <= 1


def test_known_prompts_are_those_of_the_asked_groups_and_styles(emoji):
    prompts = damage.known_prompts(emoji, ("food-drink",), ("flat", "glossy"), 3)
    assert len(prompts) == 3 and all(p.split(", ")[0] in ("red apple", "green pear") for p in prompts)


@pytest.mark.slow
def test_damaged_images_for_training_are_graded_by_their_error_and_not_from_test_prompts(spoilt):
    spoilt = damage.Damage(**{**vars(spoilt), "test": torch.tensor([True, False, True, True])})
    images, grade = clip_training.draw_damage(spoilt, 40, np.random.default_rng(0))
    own = spoilt.images[1].float() / 255
    own = torch.cat([own, own.flip(-1)])
    assert all(any(torch.equal(p, o) for o in own) for p in images)
    assert grade.max() == 1 and grade.min() < 0.2


def test_a_concept_is_no_rival_of_itself(emoji):
    fox, owl = emoji.concepts.index("fox"), emoji.concepts.index("owl")
    at = lambda c, s: int(((emoji.concept == c) & (emoji.style == s)).nonzero()[0])
    first = torch.tensor([at(fox, 0), at(fox, 1), at(owl, 0)])
    drawn = scenes.Drawn(
        torch.empty(0), ["fox", "fox, flat style", "owl"], first, torch.ones(3, dtype=torch.bool)
    )
    assert clip_training.hard_negatives(drawn, emoji).tolist() == [
        [True, False, True],
        [False, True, True],
        [True, True, True],
    ]
    drawn.captions[0] = "fox, classic style"
    assert clip_training.hard_negatives(drawn, emoji).all()


def test_contrast_is_low_where_pairs_match_and_ignores_what_is_not_allowed():
    features = torch.eye(4)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    assert clip_training.contrast(features, features, torch.tensor(50.0), allowed).max() < 2
    swapped = features[[1, 0, 2, 3]]
    wrong = clip_training.contrast(features, swapped, torch.tensor(50.0), allowed)
    assert wrong[0] > 20 > wrong[2]
    allowed[0, 1] = allowed[1, 0] = False
    assert clip_training.contrast(features, swapped, torch.tensor(50.0), allowed)[0] < wrong[0]


def test_quality_learns_nothing_from_redrawn_images():
    verdict = torch.zeros(3, 2, requires_grad=True)
    clip_training.quality(
        verdict, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([True, True, False])
    ).backward()
    good, bad, redrawn = verdict.grad.tolist()
    assert good[0] < 0 < good[1] and bad[1] < 0 < bad[0] and redrawn == [0, 0]


def test_a_redrawn_image_is_another_drawing_of_the_same():
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(64, 3, 5, 5), (64, 64), mode="bilinear")
    drawn = restyle.restyle(images)
    assert drawn.shape == images.shape and drawn.min() >= 0 and drawn.max() <= 1
    far = lambda one, other: (one - other).pow(2).mean((1, 2, 3))
    assert (far(drawn, images) > 1e-5).all(), "each image is changed"
    assert (far(drawn, images) < far(drawn, images.roll(7, 0))).float().mean() > 0.9


def test_each_way_of_redrawing_changes_what_it_says_and_nothing_else():
    torch.manual_seed(0)
    flat = torch.rand(16, 3, 1, 1).expand(16, 3, 64, 64)
    assert torch.allclose(restyle.bend(flat), flat, atol=1e-5) and torch.equal(restyle.restroke(flat), flat)
    grey = torch.linspace(0, 1, 64).expand(16, 3, 64, 64)
    assert torch.allclose(restyle.recolour(grey), grey, atol=1e-6), "greys have no hue to turn"
    red = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(64, 3, 2, 2)
    assert (restyle.recolour(red).argmax(1) == 0).all(), "red stays red"
    stroke = torch.ones(64, 3, 9, 9)
    stroke[..., 3:6] = 0
    widths = (restyle.restroke(stroke)[:, 0, 0] == 0).sum(-1)
    assert set(widths.tolist()) == {1, 5}


def test_the_bank_adds_up_a_concepts_styles(judge, emoji):
    bank = clip_training.Bank(emoji, judge.tokenizer, torch.device("cpu"))
    bank.refresh(judge.model, 0)
    bank.features = F.normalize(torch.eye(256)[: len(bank.features)], dim=-1)
    right = torch.tensor([emoji.concepts.index("fox")])
    for style in range(bank.styles):
        features = bank.features[right * bank.styles + style]
        assert (
            bank.loss(features, torch.tensor(50.0), right)
            < 3
            < bank.loss(features, torch.tensor(50.0), right - 1)
        )


def test_a_warm_start_copies_what_fits(emoji, tmp_path):
    torch.manual_seed(0)
    old, _ = clip.new_clip(tmp_path / "old", emoji)
    clip.save_clip(old.state_dict(), tmp_path / "old")
    more = dataset.Emoji(**{**vars(emoji), "concepts": [*emoji.concepts[:-1], "zebra zygote"]})
    new, tokenizer = clip.new_clip(tmp_path / "new", more)
    assert {"token_embedding.weight", "text_projection"} <= set(
        clip.warm_start(new, tokenizer, tmp_path / "old")
    )
    before = clip.open_clip.tokenizer.HFTokenizer(str(tmp_path / "old"), context_length=24).tokenizer
    ids = [t.convert_tokens_to_ids("fox</w>") for t in (before, tokenizer.tokenizer)]
    assert torch.allclose(old.token_embedding.weight[ids[0]], new.token_embedding.weight[ids[1]], atol=1e-3)
    assert torch.allclose(old.text_projection, new.text_projection, atol=1e-3)


def test_an_existing_configuration_is_kept(emoji, tmp_path):
    clip.new_clip(tmp_path, emoji)
    config = tmp_path / "open_clip_config.json"
    config.write_text(config.read_text().replace('"embed_dim": 256', '"embed_dim": 128'))
    model, _ = clip.new_clip(tmp_path, emoji)
    assert model.text_projection.shape == (256, 128) and '"embed_dim": 128' in config.read_text()


def test_frechet_distance_of_known_sets():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(400, 6)), rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 1
    assert frechet.frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet.frechet(one, one + 2) == pytest.approx(6 * 4)
    assert frechet.frechet(one, 3 * one - 2 * one.mean(0)) == pytest.approx(
        4 * np.trace(np.cov(one, rowvar=False))
    )
    first, second = (np.cov(x, rowvar=False) for x in (one, other))
    shift = one.mean(0) - other.mean(0)
    textbook = shift @ shift + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet.frechet(one, other) == pytest.approx(textbook) == frechet.frechet(other, one)
    with pytest.raises(ValueError, match="two features"):
        frechet.frechet(one[:1], other)


def test_frechet_estimate_lies_in_its_interval_which_shrinks():
    rng = np.random.default_rng(1)
    draw = lambda n: (rng.normal(size=(n, 3)), rng.normal(size=(n, 3)) + 1)
    widths = []
    for count in (60, 960):
        found = frechet.estimate(*draw(count), np.arange(count))
        assert found.low < 3 < found.high and found.low < found.mean < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_frechet_estimate_corrects_the_bias_of_small_sets():
    rng = np.random.default_rng(2)
    raw, corrected = [], []
    for _ in range(5):
        real = rng.normal(size=(60, 24))
        # as many, as wide, each moved by 0.5: 24 * 0.25 = 6
        drawn = 0.8 * real + 0.6 * rng.normal(size=(60, 24)) + 0.5
        raw.append(frechet.frechet(drawn, real))
        corrected.append(frechet.estimate(drawn, real, np.arange(60)).mean)
    assert abs(np.mean(corrected) - 6) < 0.5 * abs(np.mean(raw) - 6)


@pytest.mark.slow
def test_the_observer_learns_and_is_kept_with_its_names(emoji_data, emoji, tmp_path):
    numbers = observer.train_observer(emoji_data, tmp_path, steps=2, batch=8, device="cpu")
    assert set(numbers) == {"top1", "top5"}
    with pytest.raises(FileNotFoundError, match="observer"):
        observer.load_observer(tmp_path / "none.safetensors")
    model = observer.load_observer(tmp_path / "observer.safetensors")
    features, logits = observer.observe(model, emoji.images_of(torch.arange(5)))
    assert features.shape == (5, 64) and logits.shape == (5, len(emoji.concepts))
    assert model.columns(["owl", "fox"]) == [emoji.concepts.index("owl"), emoji.concepts.index("fox")]
    with pytest.raises(ValueError, match="unicorn"):
        model.columns(["fox", "unicorn"])


def test_the_observers_disturbances_differ_by_image_and_repeat_with_the_seed():
    images = torch.rand(64, 3, 64, 64)
    one, two = (observer.disturb(images, torch.Generator().manual_seed(s)) for s in (0, 0))
    assert torch.equal(one, two) and one.min() >= 0 and one.max() <= 1
    same = (one == images).flatten(1).all(1)
    assert 1 <= same.sum() < 32, "some are left alone, most are not"


def test_recognition_ranks_the_right_name_first_in_the_asked_style(emoji):
    names, styles = ["strawberry", "fox", "rocket", "cactus"], ["flat", "classic"]
    watch = report.Recognition(
        embedded(), dataset.Emoji(**{**vars(emoji), "concepts": names, "styles": styles})
    )
    shown, style = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 0])
    images = report.draw(
        embedded(), [f"{names[c]}, {styles[s]} style" for c, s in zip(shown, style, strict=True)], 4, 0
    )
    assert watch.ranks(images, shown, style).tolist() == [0, 0, 0]
    assert (watch.ranks(images, shown.roll(1), style) > 0).all()
    likeness = watch.judge.images(images[1:2]) @ watch.texts[1].T
    assert watch.ranks(images[1:2].expand(4, -1, -1, -1), torch.arange(4), torch.ones(4).long()).tolist() == (
        likeness.argsort(descending=True).argsort().flatten().tolist()
    ), "ranks of all four names are those of their own style's captions"


@pytest.mark.parametrize("steps", [4, 50])
def test_the_teacher_takes_pure_noise_for_what_it_is(steps):
    """Of an image that the predictions know, every x_t on the path holds as much as the schedule says, on one
    and the same noise.
    """
    scheduler = report.as_teacher(embedded()).scheduler
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    image, noise = torch.rand(2, 1, 3, 4, 4)
    x = noise
    for number, timestep in enumerate(scheduler.timesteps):
        alpha = scheduler.alphas_cumprod[timestep].sqrt()
        sigma = (1 - alpha**2).sqrt()
        assert number == 0 or torch.allclose(x, alpha * image + sigma * noise, atol=1e-5)
        x = scheduler.step((x - alpha * image) / sigma, timestep, x, return_dict=False)[0]
    assert torch.allclose(x, image, atol=1e-5)


def test_the_teacher_starts_at_the_last_timestep_and_needs_no_new_noise():
    backbone = report.as_teacher(embedded())
    backbone.set_timesteps(backbone.scheduler, report.TEACHER_STEPS)
    assert int(backbone.scheduler.timesteps[0]) == 999 and len(backbone.scheduler.timesteps) == 50
    assert type(embedded().scheduler).__name__ == "LCMScheduler", "the student keeps its own"
    one = report.draw(backbone, ["fox, flat style"], 2, seed=0)
    assert torch.equal(one, report.draw(backbone, ["fox, flat style"], 2, seed=0))


def test_both_things_of_a_scene_must_be_seen_and_in_different_halves(emoji):
    class Eyes(torch.nn.Module):
        """Sees whole colours: pure red is the first concept, pure green the second, anything else others."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def features(self, images):
            return images.mean((2, 3))

        def classes(self, features):
            red, green, _ = torch.special.logit(features.sigmoid()).unbind(1)
            others = torch.full((len(red), len(emoji.concepts) - 2), 0.5)
            return torch.cat([red[:, None], green[:, None], others], 1)

        def columns(self, concepts):
            return list(range(len(concepts)))

    plain = torch.zeros(3, 3, 8, 8)
    red, green = plain.clone(), plain.clone()
    red[:, 0], green[:, 1] = 1, 1
    scene = variety.beside(red, green)[:, :, 2:6].repeat_interleave(2, 2)
    pairs = torch.tensor([[0, 1], [1, 0], [0, 0]])
    found = lambda images: variety.both_recognised(Eyes(), emoji, images, pairs).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variety, "BEST", 1)
        assert found(scene) == [True, True, False] and found(red) == [False, False, True]


def test_variety_is_measured_over_seeds_and_prompts(emoji):
    torch.manual_seed(0)
    eyes = observer.Observer(emoji.concepts).eval()
    found = variety.measure(embedded(), emoji, eyes, prompts=2, seeds=2)
    assert found["prompts"] == found["seeds"] == found["scenes"] == 2
    assert 0 < found["variety"]["mean"] < found["between"]["mean"] < 1
    assert "two prompts" in variety.markdown(found)
