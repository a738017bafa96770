"""torch.compile of quantized denoisers: one graph without a break, numbers equal to eager ones."""

import copy
import shutil

import pytest
import torch
from tiny_models import PROMPTS, tiny
from torch import nn

from qsched.quantization import BitWidth, Quantization, QuantLinear, cache_bytes, quantize
from qsched.quantization import layers as packed_layers
from qsched.quantizers.bos import BosLinear
from qsched.quantizers.low_rank import LowRankLayer
from qsched.sampling.loop import draw_noise

pytestmark = pytest.mark.slow

ROUNDING = 1e-2
"""Relative difference that a compiler's order of float operations explains: a last bit moves an activation by
a level.
"""


class Small(nn.Module):
    """The packed layers' kinds of work: a padded convolution, a strided one, a 1x1 one, tokens."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.Conv2d(32, 32, 1),
        )
        self.tokens = nn.Linear(32, 48)

    def forward(self, x):
        return self.tokens(self.layers(x).flatten(2).transpose(1, 2))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Graphs(list):
    """A backend that keeps what it is given and runs it as it is."""

    def __call__(self, graph, inputs):
        self.append(graph)
        return graph.forward


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(autouse=True)
def instructions(monkeypatch):
    """As on a CPU that has instructions for integer products, so that one can see them in the graph."""
    monkeypatch.setattr("qsched.quantization.packing.has_vnni", lambda: True)


def test_without_such_instructions_a_model_is_one_graph_too(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    small, graphs, x = Small(), Graphs(), torch.randn(2, 16, 8, 8)
    quantize(small, "w4a8", execution="int8")
    with torch.inference_mode():
        compiled = torch.compile(small, fullgraph=True, backend=graphs)
        assert torch.equal(compiled(x), small(x)) and len(graphs) == 1
    assert not any("_int_mm" in str(node.target) for node in graphs[0].graph.nodes)


@pytest.mark.parametrize(("id", "bits"), [("lcm-dreamshaper-v7", "w4a8"), ("flux1-schnell", "w8a8")])
def test_a_whole_denoiser_is_one_graph(id, bits):
    backbone, graphs = tiny(id), Graphs()
    module = backbone.quantized(Quantization(bits)).module
    x, t, condition = (
        draw_noise(backbone.latent_shape, 0, [0]).start,
        torch.tensor(500.0),
        backbone.encode(PROMPTS[:1]),
    )
    with torch.inference_mode():
        compiled = torch.compile(module, fullgraph=True, backend=graphs)
        traced = [backbone._predict(compiled, x, t, condition) for _ in range(2)]
        expected = backbone._predict(module, x, t, condition)
    assert len(graphs) == 1, "the second call traces nothing"
    assert all(torch.equal(one, expected) for one in traced)
    products = [str(node.target) for node in graphs[0].graph.nodes]
    assert any("_int_mm" in name for name in products) or not any("int8" in mode for mode in _modes(module))


def _modes(module):
    layers = [layer for layer in module.modules() if isinstance(layer, packed_layers.PackedLayer)]
    return {layer.uses(torch.device("cpu"), torch.float32) for layer in layers}


def test_layers_of_other_methods_are_one_graph_too():
    linear, graphs, x = nn.Linear(32, 48), Graphs(), torch.randn(2, 7, 32)
    pack = lambda layer: QuantLinear(layer, BitWidth(4, 8), execution="int8")
    layers = nn.ModuleList(
        [LowRankLayer(nn.Linear(32, 32), 4, None, pack), BosLinear(pack(linear), torch.randn(48))]
    )
    run = lambda x: layers[1](layers[0](x))
    with torch.inference_mode():
        assert torch.equal(torch.compile(run, fullgraph=True, backend=graphs)(x), run(x)) and len(graphs) == 1


@pytest.mark.parametrize("chosen", ["fake", "int8"])
@pytest.mark.parametrize("cache", [True, False])
def test_the_execution_is_decided_before_a_layer_is_traced(monkeypatch, chosen, cache):
    small, graphs, asked = Small(), Graphs(), []
    quantize(small, "w4a8", execution="auto", cache=cache)
    monkeypatch.setattr(packed_layers, "_int_mm_is_exact", lambda: asked.append(chosen) or chosen == "int8")
    compiled, x = torch.compile(small, fullgraph=True, backend=graphs), torch.randn(2, 16, 8, 8)
    with torch.inference_mode():
        first, again = compiled(x), compiled(x)
        assert asked
        assert cache_bytes(small) == 0, "a traced call leaves nothing behind"
        assert torch.equal(first, again) and torch.equal(first, small(x)) and len(graphs) == 1
    used = [node for node in graphs[0].graph.nodes if "_int_mm" in str(node.target)]
    assert (len(used) > 0) == (chosen == "int8")


def test_unpacked_weights_that_are_held_are_used():
    small, graphs, x = Small(), Graphs(), torch.randn(2, 16, 8, 8)
    quantize(small, "w4a8", execution="int8", cache=True)
    with torch.inference_mode():
        expected, held = small(x), cache_bytes(small)
        compiled = torch.compile(small, fullgraph=True, backend=graphs)
        assert torch.equal(compiled(x), expected) and cache_bytes(small) == held > 0
    assert not any("bitwise_right_shift" in str(node.target) for node in graphs[0].graph.nodes)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs g++ on the CPU")
def test_torchs_own_compiler_gives_the_same_numbers():
    torch.manual_seed(0)
    layers, x = (
        nn.Sequential(nn.Conv2d(16, 32, 1), nn.Flatten(2), nn.Linear(64, 48)),
        torch.randn(2, 16, 8, 8),
    )
    both = [copy.deepcopy(layers) for _ in range(2)]
    for module, bits in zip(both, ("w8a8", "w4a8"), strict=True):
        quantize(module, bits, execution="int8", cache=False)
    with torch.inference_mode():
        found = torch.compile(lambda x: [module(x) for module in both], fullgraph=True)(x)
        assert all(relative(one, module(x)) < ROUNDING for one, module in zip(found, both, strict=True))
