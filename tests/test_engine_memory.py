"""Large backbones take turns on the device, and running out of memory ends with a sentence, not with the
page.
"""

import pytest
import torch
from browser_app import tiny_backbone
from tiny_models import fresh

from qsched.comparison.result import Settings
from qsched.hub.source import BackboneError
from qsched.models.memory import out_of_memory, would_fit
from qsched.models.registry import SPECS
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.ui.errors import sentence_for

ONE, PLAIN = Settings("a red fox", 0, 1), Coefficients.identity()
IDS = ("sdxl-turbo", "lcm-dreamshaper-v7")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loaded():
    return {id: fresh(id) for id in IDS}


@pytest.fixture
def engine(loaded):
    return Engine("sdxl-turbo", load=lambda id, **options: loaded.get(id) or tiny_backbone(id))


def test_the_backbone_that_is_left_leaves_the_device(engine, loaded):
    turbo, lcm = (loaded[id].residency for id in IDS)
    engine.compare("a", IDS[0], ONE, PLAIN)
    assert turbo.there
    engine.compare("b", IDS[1], ONE, PLAIN)
    assert lcm.there and not turbo.there
    assert engine.rescale("a", Coefficients.constant(1.1, 1.0)) and turbo.there and not lcm.there
    engine.compare("b", "emoji-lcm", ONE, PLAIN)
    assert not turbo.there and not lcm.there


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_while_comparing_is_one_sentence_and_the_page_goes_on(
    engine, loaded, monkeypatch, error
):
    first = engine.compare("a", IDS[0], ONE, PLAIN)
    monkeypatch.setattr("qsched.models.memory.free_bytes", lambda device: 12 << 30)
    fits = would_fit(12 << 30, CPU)

    def too_much(*args, **kwargs):
        raise error

    for part, name in ((loaded[IDS[0]].denoiser, "forward"), (loaded[IDS[0]].pipe.vae, "decode")):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, too_much)
            with pytest.raises(BackboneError) as caught:
                engine.compare("a", IDS[0], Settings("another", 0, 1), PLAIN)
        sentence = sentence_for(caught.value)
        assert "SDXL-Turbo ran out of memory" in sentence and f"{fits} or emoji-lcm would fit" in sentence
        assert engine.session("a").comparison is first and not loaded[IDS[0]].residency.there
    assert engine.compare("a", IDS[0], Settings("another", 0, 1), PLAIN) is not first


def test_what_ran_out_of_memory_is_not_recommended(monkeypatch):
    monkeypatch.setattr("qsched.models.memory.free_bytes", lambda device: 200 << 30)
    largest = would_fit(200 << 30, CPU)
    assert largest not in out_of_memory(SPECS[largest], CPU) and largest in out_of_memory(
        SPECS["sdxl-turbo"], CPU
    )
    assert out_of_memory(SPECS["sdxl-turbo"], torch.device("cuda")).endswith("or the CPU would fit.")
    assert "emoji-lcm" not in out_of_memory(SPECS["emoji-lcm"], CPU).replace("Emoji LCM", "")
