"""LPIPS (Zhang et al. 2018) as pyiqa computes it (metric "lpips": AlexNet, version 0.1).

pyiqa's constructor always downloads AlexNet through torchvision, without a timeout and whatever it is told,
and prints on stdout what it loads. So its network is assembled here from weights that are already on this
machine, and its own forward pass is used; a test compares the two.
"""

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from qsched.hub.source import Source
from qsched.scoring.clip import finite
from qsched.scoring.weights import Progress, ScorerError, Weights, fetch, fetch_url

LINEAR = Weights(
    "The LPIPS weights",
    Source("chaofengc/IQA-PyTorch-Weights", ("LPIPS_v0.1_alex-df73285e.pth",), bytes=6_000),
)
ALEXNET = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
ALEXNET_FILE = ALEXNET.rsplit("/", 1)[-1]
ALEXNET_BYTES = 244_000_000
SLICES = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12))  # AlexNet's layers up to each of its five ReLUs
CHANNELS = (64, 192, 384, 256, 256)


class Lpips:
    """LPIPS distance: 0 for equal images, about 0.1 for a close copy, up to about 1.

    Args:
        trunk: AlexNet's weights as torchvision names them ("features.0.weight", ...); its classifier is not
            needed.
        linear: the five learned weightings ("lin0.model.1.weight", ...).
        device: where to compute, always in fp32.
    """

    def __init__(
        self, trunk: dict[str, Tensor], linear: dict[str, Tensor], device: torch.device | str = "cpu"
    ):
        self.device = torch.device(device)
        self.network = _network(trunk, linear).to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of every image to its reference, float32 (batch,); both (batch, 3, H, W) in [0, 1]."""
        pairs = zip(images.split(16), reference.split(16), strict=True)
        return torch.cat([self._batch(*pair) for pair in pairs])

    def _batch(self, images: Tensor, reference: Tensor) -> Tensor:
        return self.network(finite(images.to(self.device)), finite(reference.to(self.device))).flatten()


def load_lpips(
    device: torch.device | str = "cpu", *, folder: str | Path | None = None, offline: bool | None = None
) -> Lpips:
    """LPIPS with its published weights: 6 kB from the Hub and AlexNet from torchvision's server (244 MB, kept
    in torch's cache).

    Args:
        folder: a folder with local copies: IQA-PyTorch-Weights/ with both files in it.
        offline: never ask a server; None asks unless HF_HUB_OFFLINE is set.
    Raises:
        ScorerError: the weights cannot be had; one sentence.
    """
    linear = fetch(LINEAR, folder, offline) / LINEAR.source.files[0]
    if folder is not None:
        trunk = linear.parent / ALEXNET_FILE
        if not trunk.is_file():
            raise ScorerError(
                f"AlexNet's weights for LPIPS should be in {trunk.parent}, where {trunk.name} is missing."
            )
    else:
        trunk = fetch_alexnet(offline)
    try:
        states = [torch.load(path, map_location="cpu", weights_only=True) for path in (trunk, linear)]
        return Lpips(*states, device)
    except Exception as error:  # damaged files make torch raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ScorerError(f"LPIPS cannot be loaded from {trunk} and {linear}: {reason}") from error


def lpips_is_here(folder: str | Path | None = None) -> bool:
    """Whether load_lpips(folder=folder) has its files on this machine; takes a tenth of a millisecond."""
    if folder is None:
        return LINEAR.here is not None and alexnet_place().is_file()
    place = Path(folder) / LINEAR.folder_name
    return all((place / name).is_file() for name in (LINEAR.source.files[0], ALEXNET_FILE))


def alexnet_place() -> Path:
    """Where torchvision, too, keeps AlexNet's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE


def fetch_alexnet(offline: bool | None = None, on_progress: Progress | None = None) -> Path:
    """AlexNet's weights from torchvision's server, kept in torch's cache; its name ends in how its SHA-256
    begins.

    Raises:
        ScorerError: they cannot be had; one sentence.
    """
    sha256 = ALEXNET_FILE.split("-")[-1].split(".")[0]
    return fetch_url("AlexNet for LPIPS", ALEXNET, alexnet_place(), sha256, offline, on_progress)


def _network(trunk: dict[str, Tensor], linear: dict[str, Tensor]) -> nn.Module:
    """pyiqa's LPIPS without its constructor, over these weights."""
    from pyiqa.archs import lpips_arch

    with torch.device("meta"):
        layers = torchvision.models.alexnet(weights=None).features
    layers.load_state_dict(_renamed(trunk, "features."), assign=True)

    class Trunk(lpips_arch.alexnet):
        def __init__(self):
            nn.Module.__init__(self)
            for number, span in enumerate(SLICES, start=1):
                self.add_module(f"slice{number}", layers[slice(*span)])

    class Network(lpips_arch.LPIPS):
        def __init__(self):
            nn.Module.__init__(self)
            self.version, self.lpips, self.spatial, self.semantic_weight_layer = "0.1", True, False, -1
            self.L, self.scaling_layer, self.net = len(CHANNELS), lpips_arch.ScalingLayer(), Trunk()
            self.lins = nn.ModuleList(
                lpips_arch.NetLinLayer(channels, use_dropout=True) for channels in CHANNELS
            )

    network = Network()
    once = {name: tensor for name, tensor in linear.items() if not name.startswith("lins.")}
    network.lins.load_state_dict(_renamed(once, "lin"))
    return network


def _renamed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin so, as float32 and without this beginning."""
    return {n.removeprefix(prefix): t.float() for n, t in state.items() if n.startswith(prefix)}
