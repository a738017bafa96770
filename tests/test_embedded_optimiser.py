"""Muon and AdamW as one optimiser."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from qsched.embedded.training import loop as training
from qsched.embedded.training.optimiser import MuonAdamW, as_matrix

LAYOUTS = (torch.contiguous_format, torch.channels_last)
OPTIONS = {"lr": 0.02, "weight_decay": 0.1}
INNER = ("inner.weight", "point.weight", "linear.weight")


def network(layout=torch.contiguous_format):
    torch.manual_seed(0)
    layers = {"conv_in": nn.Conv2d(3, 8, 3), "inner": nn.Conv2d(8, 6, 3), "point": nn.Conv2d(6, 5, 1)}
    layers |= {"norm": nn.GroupNorm(1, 5), "flat": nn.Flatten(), "linear": nn.Linear(125, 7)}
    return nn.Sequential(OrderedDict(layers)).to(memory_format=layout)


def loss_of(model):
    return model(torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))).pow(2).mean()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_matrix_is_a_view_of_its_weight(layout):
    for name in INNER:
        weight = network(layout).get_parameter(name).data
        matrix = as_matrix(weight)
        assert matrix.shape == (len(weight), weight[0].numel()) and matrix.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_is_muons_within_and_adamws_at_the_ends(layout):
    model, plain = network(layout), network()
    optimiser = MuonAdamW(model.named_parameters(), **OPTIONS)
    loss_of(model).backward()
    optimiser.step()
    loss_of(plain).backward()
    given = dict(plain.named_parameters())
    flat = {name: nn.Parameter(given[name].data.flatten(1)) for name in INNER}
    for name in INNER:
        flat[name].grad = given[name].grad.flatten(1)
    torch.optim.Muon(flat.values(), adjust_lr_fn="match_rms_adamw", **OPTIONS).step()
    torch.optim.AdamW([p for n, p in given.items() if n not in flat], betas=(0.9, 0.98), **OPTIONS).step()
    for name, weight in model.named_parameters():
        expected = flat[name].view_as(weight) if name in flat else given[name]
        # PyTorch's Muon iterates in bfloat16, so another order of the columns moves the last bits of an
        # update
        assert torch.allclose(weight, expected, atol=2e-4 if name in flat else 1e-6), name
        assert not torch.allclose(weight, network().get_parameter(name), atol=1e-3), name


def test_gradients_are_forgotten_and_the_rate_reaches_both():
    model = network()
    optimiser = MuonAdamW(model.named_parameters(), **OPTIONS)
    loss_of(model).backward()
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    optimiser.zero_grad()
    assert all(value.grad is None for value in model.parameters())


def test_an_older_torch_is_told_what_it_lacks(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"needs torch 2\.9"):
        MuonAdamW([], **OPTIONS)


@pytest.mark.parametrize("muon", [True, False])
def test_training_resumes_where_it_was_killed(tmp_path, muon):
    def run(name, stop=None):
        model = network(torch.channels_last)

        def loss(step):
            if step == stop:
                raise KeyboardInterrupt
            return loss_of(model)

        options = {"steps": 12, "learning_rate": 0.1, "save_minutes": 0, "muon": muon}
        return training.train(model, loss, tmp_path / f"{name}.pt", **options).weights

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop=9)
    assert torch.load(tmp_path / "killed.pt", weights_only=True)["step"] == 9
    resumed = run("killed")
    assert all(torch.allclose(value, resumed[name], atol=1e-4) for name, value in whole.items())
    assert any(
        not torch.allclose(value, network().state_dict()[name], atol=1e-3) for name, value in whole.items()
    )
