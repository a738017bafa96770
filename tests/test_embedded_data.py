"""What the embedded model learns from: opacity, splits, captions in natural words, composed scenes, batches
of the denoiser.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from emoji_art import CONCEPTS

from qsched.embedded.data import dataset, scenes, words
from qsched.embedded.denoiser import batches
from qsched.embedded.denoiser import unet as denoiser
from qsched.embedded.judges import clip


def scenes_of(emoji, **options):
    return scenes.Scenes(emoji, emoji.train_indices(), **options)


def test_opacity_is_stored_and_gives_the_image_back(emoji):
    cutouts = emoji.cutouts().int()
    assert cutouts.shape == (len(emoji.images), 4, 64, 64)
    assert (cutouts[:, 3, 32, 32] == 255).all() and (cutouts[:, 3, 0, 0] == 0).all()
    on_white = cutouts[:, :3] + 255 - cutouts[:, 3:]
    assert (on_white - emoji.images.permute(0, 3, 1, 2).int()).abs().max() <= 1


def test_unseen_concepts_and_other_styles_are_left_out_of_training(emoji):
    emoji = dataset.Emoji(**{**vars(emoji), "unseen": torch.arange(len(emoji.concepts)) == 2})
    indices = emoji.train_indices(("flat", "retro"), unseen=False)
    assert not emoji.held_out[indices].any() and not (emoji.concept[indices] == 2).any()
    assert {emoji.styles[s] for s in emoji.style[indices]} == {"flat", "retro"}
    share = np.mean([dataset.is_unseen(f"concept {i}") for i in range(4000)])
    assert abs(share - dataset.UNSEEN_SHARE) < 0.01


def test_all_but_equal_images_of_two_sets_count_as_one():
    image = np.full((64, 64, 3), 200, np.uint8)
    noisy = (image + np.random.default_rng(0).normal(0, 5, image.shape)).astype(np.uint8)
    assert dataset.is_copy(noisy, [image]) and not dataset.is_copy(image // 2, [image])


@pytest.mark.parametrize(
    ("name", "several", "one"),
    [
        ("red apple", "red apples", "a red apple"),
        ("owl", "owls", "an owl"),
        ("cherries", "cherries", "cherries"),
        ("fox", "foxes", "a fox"),
        ("cactus", "cactuses", "a cactus"),
        ("glass of milk", "glasses of milk", "a glass of milk"),
        ("maple leaf", "maple leaves", "a maple leaf"),
        ("butterfly", "butterflies", "a butterfly"),
        ("nest with eggs", "nests with eggs", "a nest with eggs"),
        ("tropical fish", "tropical fish", "a tropical fish"),
    ],
)
def test_plurals_and_articles(name, several, one):
    assert words.plural(name) == several and words.with_article(name) == one


def test_a_tag_of_two_concepts_is_no_synonym():
    found = words.synonyms(
        ["car", "bus", "taxi"], [["automobile", "vehicle"], ["vehicle", "car"], ["cab", "9"]]
    )
    assert found == [["automobile"], [], ["cab"]]


def test_captions_name_what_is_shown(emoji):
    speaker, rng = words.Words(emoji.concepts, emoji.tags, emoji.styles), np.random.default_rng(0)
    fox, owl = emoji.concepts.index("fox"), emoji.concepts.index("owl")
    singles = [speaker.single(fox, 1, rng) for _ in range(300)]
    assert all("fox" in caption for caption in singles) and len(set(singles)) > 12
    assert 0.4 < np.mean([caption == "fox, flat style" for caption in singles]) < 0.7
    assert any("my fox" in caption for caption in singles)
    counted = [speaker.scene([fox, fox], 1, "beside", "", [], rng) for _ in range(20)]
    assert all("two" in caption and "foxes" in caption for caption in counted)
    both = [speaker.scene([fox, owl], 1, "stacked", "", ["blue", "orange"], rng) for _ in range(50)]
    assert all("fox" in c and "owl" in c and "blue and orange" in c for c in both)
    assert any(c.index("owl") < c.index("fox") for c in both), "some say what is below what"
    assert "in front of an orange background" in " ".join(
        speaker.scene([fox], 1, "one", "big", ["orange"], rng) for _ in range(50)
    )
    assert not set(words.UNSEEN_PHRASES) & {*words.WITH_STYLE, *words.WITHOUT_STYLE}


def test_scenes_are_the_same_for_the_same_seed_and_step(emoji):
    first, again, other = scenes_of(emoji, seed=3), scenes_of(emoji, seed=3), scenes_of(emoji, seed=4)
    for step in (0, 7):
        one, two = first.draw(24, step), again.draw(24, step)
        assert one.captions == two.captions and torch.equal(one.images, two.images)
    assert first.draw(24, 0).captions != first.draw(24, 1).captions
    assert first.draw(24, 0).captions != other.draw(24, 0).captions


def test_plain_scenes_are_the_stored_images(emoji):
    drawn = scenes_of(emoji, mix=scenes.PLAIN).draw(20, 0)
    assert drawn.single.all()
    assert (drawn.images - emoji.images_of(drawn.first)).abs().max() <= 1 / 255 + 1e-6


def test_grounds_counts_and_places_are_as_the_caption_says(emoji):
    ground = scenes_of(emoji, mix=scenes.Mix(ground=1, two_tone=0, sized=0, two=0, three=0)).draw(30, 0)
    for image, caption in zip(ground.images, ground.captions, strict=True):
        said = caption.replace("red apple", "").replace("green pear", "").replace(",", "")
        colour = next(c for c in scenes.GROUNDS if f" {c}" in said)
        assert (image[:, 0, 0] - torch.tensor(scenes.GROUNDS[colour]) / 255).abs().max() < 0.05
    two = scenes_of(emoji, mix=scenes.Mix(0, 0, 0, two=1, three=0, counted=1, several_on_ground=0)).draw(
        10, 0
    )
    assert not two.single.any()
    assert torch.allclose(two.images, two.images.flip(-1), atol=0.02), "the same thing twice"
    big, small = (
        scenes_of(emoji, mix=scenes.Mix(0, 0, sized=1, two=0, three=0, several_on_ground=0)).draw(40, s)
        for s in (0, 1)
    )
    for drawn in (big, small):
        for image, caption in zip(drawn.images, drawn.captions, strict=True):
            inked = float((image < 0.95).any(0).float().mean())
            assert inked < 0.3 if any(w in caption for w in words.SIZES["small"]) else inked > 0.5


def test_held_out_images_are_never_drawn(emoji):
    maker = scenes_of(emoji)
    drawn = torch.cat([maker.draw(64, step).first for step in range(10)])
    assert not emoji.held_out[drawn].any() and len(drawn.unique()) > 20


def test_jitter_moves_images_but_stays_in_range(emoji):
    plain = scenes_of(emoji, mix=scenes.PLAIN, seed=1).draw(16, 0)
    moved = scenes_of(emoji, mix=scenes.PLAIN, seed=1, jitter=scenes.Jitter()).draw(16, 0)
    assert torch.equal(plain.first, moved.first) and not torch.allclose(plain.images, moved.images, atol=0.05)
    assert moved.images.min() >= 0 and moved.images.max() <= 1


def test_what_has_a_side_is_never_mirrored(emoji):
    sided = ["magnifying glass tilted left", "last quarter moon", "chart increasing"]
    names = [*sided, "arrow", "bright sun", "quarterback", *emoji.concepts[6:]]
    images = torch.full_like(emoji.images, 255)
    images[:, 16:48, 10:30] = 40
    still = scenes.Jitter(place=0, zoom=0, turn=0, gain=0)
    feed = scenes_of(
        replace(emoji, concepts=names, images=images, alpha=torch.full_like(emoji.alpha, 255)),
        mix=scenes.PLAIN,
        jitter=still,
    )
    drawn = feed.draw(400, 0)
    mirrored = drawn.images[:, 0, 32, :32].mean(-1) > drawn.images[:, 0, 32, 32:].mean(-1)
    share = {name: mirrored[emoji.concept[drawn.first] == i].float().mean() for i, name in enumerate(names)}
    assert all(share[name] == 0 for name in sided), share
    assert all(0.2 < share[name] < 0.8 for name in names if name not in sided), share


def test_a_batch_is_latents_texts_and_noise_levels(emoji_data, emoji, tmp_path):
    model, _ = clip.new_clip(tmp_path, emoji)
    clip.save_clip(model.state_dict(), tmp_path)
    feed = batches.PixelBatches(emoji_data, tmp_path, torch.device("cpu"), 0)
    assert feed.styles == list(batches.STYLES) and not emoji.held_out[feed.usable].any()
    drawn = feed.draw(6, 0)
    clean, states, pooled = drawn.clean, drawn.states, drawn.pooled
    assert clean.shape == (6, 48, 16, 16) and states.shape == (6, 24, 256) and pooled.shape == (6, 256)
    noise, timesteps = torch.randn_like(clean), torch.full((6,), 259)
    noisy, timesteps, alpha, sigma = feed.noised(clean, noise, timesteps, 0.5)
    assert timesteps.tolist() == [denoiser.LAST] * 3 + [259] * 3
    assert torch.equal(noisy[:3], noise[:3])
    assert torch.allclose(denoiser.image(noisy, noise, alpha, sigma)[3:], clean[3:], atol=1e-4)

    perfect = feed.held_out_loss(lambda noisy, *_, **__: (noisy,))
    assert set(perfect) <= {"loss_seen", "loss_held_out", "loss_unseen"} and all(
        v > 0 for v in perfect.values()
    )
    assert set(CONCEPTS) == set(emoji.concepts)
