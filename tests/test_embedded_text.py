"""Captions in any words, and the text tower that learns to read them."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qsched.embedded.data import dataset, phrases, words
from qsched.embedded.judges import clip, clip_training, text_training

pytestmark = pytest.mark.slow


def test_a_loose_caption_names_the_thing_and_its_style_among_other_words():
    rng = np.random.default_rng(0)
    for _ in range(300):
        with_style, without = (
            phrases.loose(words.forms("red apple"), style, rng) for style in ("flat", None)
        )
        assert "red apple" in with_style and "flat" in with_style and "red apple" in without
        assert len(re.findall(r"\w+", with_style)) > 3 and len(re.findall(r"\w+", without)) > 2
    assert "two foxes on blue" in phrases.around("two foxes on blue", rng)


def test_the_words_of_the_unseen_phrases_stay_unseen():
    unseen = set(re.findall(r"\b[a-z]+\b", re.sub(r"{\w+}", "", " ".join(words.UNSEEN_PHRASES)))) - {
        "in",
        "the",
        "style",
    }
    assert unseen == {"one", "please", "draw", "icon"}
    assert not unseen & set(" ".join((*phrases.FILLERS, *phrases.STYLES)).split())


def test_captions_of_training_are_plain_loose_or_of_a_template(emoji):
    speaker, rng = words.Words(emoji.concepts, emoji.tags, emoji.styles), np.random.default_rng(0)
    singles = [speaker.single(0, 1, rng) for _ in range(600)]
    usual = {t.format(name=n, a_name=words.with_article(n), style=emoji.styles[1])
             for t in (*words.WITH_STYLE, *words.WITHOUT_STYLE) for n in (emoji.concepts[0],
                 *speaker.synonyms[0])}  # fmt: skip
    share = np.mean([caption not in usual for caption in singles])
    assert abs(share - words.LOOSE_SHARE) < 0.06


@pytest.fixture(scope="module")
def taught(emoji_data, emoji, tmp_path_factory):
    """A CLIP that has learnt nothing, and what teaching it phrases makes of it."""
    torch.manual_seed(0)
    before, after = (tmp_path_factory.mktemp(name) for name in ("before", "after"))
    model, _ = clip.new_clip(before, emoji)
    clip.save_clip(model.state_dict(), before)
    options = {"steps": 60, "batch": 12, "device": "cpu", "learning_rate": 3e-3}
    text_training.train_text(emoji_data, after, after, start=before, **options)
    return clip.load_clip(before, emoji), clip.load_clip(after, emoji)


def test_what_is_kept_is_not_overwritten(emoji_data, tmp_path):
    with pytest.raises(ValueError, match="another folder"):
        text_training.train_text(emoji_data, tmp_path, tmp_path, start=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="--start-from"):
        clip_training.train_clip(emoji_data, tmp_path, tmp_path, keep_text=True, device="cpu")


def test_teaching_phrases_brings_loose_captions_to_their_plain_ones(taught, emoji):
    (teacher, tokenizer), (model, _) = taught
    plain, free = text_training.asked(emoji, 64, np.random.default_rng(5))
    with torch.no_grad():
        target = clip.encode_texts(teacher, tokenizer(plain))
        near = lambda tower, texts: float(
            F.cosine_similarity(clip.encode_texts(tower, tokenizer(texts)), target).mean()
        )
        assert near(model, free) > near(teacher, free) + 0.1
        assert near(model, plain) > 0.95, "what plain captions give stays"


def test_teaching_phrases_leaves_the_image_tower_alone(taught, emoji):
    (teacher, _), (model, _) = taught
    images = dataset.Emoji.images_of(emoji, torch.arange(4))
    with torch.no_grad():
        assert torch.equal(teacher.encode_image(images), model.encode_image(images))
