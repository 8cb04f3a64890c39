import pytest
import torch
from attrs import asdict, evolve
from wan_helpers import randomize, relative_error

from harness.errors import HarnessError
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.presets import build_model, geometry
from harness.models.widening import image_channels, widen

FRAMES, SIZE = 3, 4


def make_text_model():
    torch.manual_seed(0)
    model = build_model("tiny")
    randomize(model)
    return model


def make_condition(seed=1, image=True):
    rng = torch.Generator().manual_seed(seed)
    return Condition(
        text=torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(8)),
        image_tokens=torch.randn(2, 7, 64, generator=rng) if image else None,
        y=torch.randn(2, 20, FRAMES, SIZE, SIZE, generator=rng) if image else None,
        positions=torch.randn(2, 5, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(9)),
    )


def velocity(model, condition, t=500.0, **more):
    x = torch.randn(2, 16, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    return predict_velocity(model, x, torch.full((2,), t), condition, **more)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_wider_network_is_the_original_on_any_image(seed):
    model = make_text_model()
    wider = widen(model, geometry("tiny-i2v"))
    with torch.no_grad():
        expected = velocity(model, make_condition(image=False))
        assert relative_error(velocity(wider, make_condition(seed)), expected) < 1e-6
        blocks = {"frames_per_block": (1, 1)}
        blockwise = velocity(model, make_condition(image=False), **blocks)
        assert relative_error(velocity(wider, make_condition(seed), **blocks), blockwise) < 1e-6
        moved = evolve(make_condition(seed), positions=make_condition(seed).positions.flip(1))
        assert relative_error(velocity(wider, moved), expected) > 0.01  # the positions still count


def test_it_is_the_preset_it_was_asked_for_and_shares_no_memory():
    model = make_text_model()
    wider = widen(model, geometry("tiny-i2v"))
    assert (wider.config["in_channels"], wider.config["image_dim"], wider.config["added_kv_proj_dim"]) == (41, 64, 96)
    assert {p.data_ptr() for p in model.parameters()}.isdisjoint(p.data_ptr() for p in wider.parameters())
    assert all(p.requires_grad for p in wider.parameters())


def test_the_images_parts_learn():
    wider = widen(make_text_model(), geometry("tiny-i2v"))
    velocity(wider, make_condition()).square().mean().backward()
    assert wider.patch_embedding.weight.grad[:, 16:36].abs().max() > 0
    values = [p.grad for name, p in wider.named_parameters() if ".add_v_proj." in name]
    assert len(values) == 8
    assert all(gradient.abs().max() > 0 for gradient in values)
    with torch.no_grad():
        for parameter in wider.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad.sign()
    with torch.no_grad():
        first, second = (velocity(wider, make_condition(seed)) for seed in (1, 2))
        tokens = evolve(make_condition(1), image_tokens=make_condition(2).image_tokens)
        assert relative_error(first, second) > 1e-3
        assert relative_error(first, velocity(wider, tokens)) > 1e-4


def test_the_new_parts_are_drawn_from_the_seed():
    model = make_text_model()

    def drawn(seed):
        torch.manual_seed(seed)
        return widen(model, geometry("tiny-i2v"))

    one, same, other = drawn(1).state_dict(), drawn(1).state_dict(), drawn(2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    different = {name for name in one if not torch.equal(one[name], other[name])}
    assert any("add_k_proj" in name for name in different)
    assert any("image_embedder" in name for name in different)
    assert different.isdisjoint(model.state_dict())


def test_without_positions_the_new_channels_are_the_last():
    plain = geometry("wan2.1-t2v-1.3b")
    small = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 16, "text_dim": 8}
    narrow = evolve(plain, **small)
    model = CausalWan(**asdict(narrow))
    wider = widen(model, evolve(narrow, in_channels=36, image_dim=6, added_kv_proj_dim=24))
    assert torch.equal(wider.patch_embedding.weight[:, :16], model.patch_embedding.weight)
    assert wider.patch_embedding.weight[:, 16:].abs().max() == 0


def test_other_networks_are_refused():
    model = make_text_model()
    with pytest.raises(HarnessError, match="num_layers is 4, expected 3"):
        widen(model, evolve(geometry("tiny-i2v"), num_layers=3))
    with pytest.raises(HarnessError, match="in_channels is 21, expected 16"):
        widen(model, evolve(geometry("tiny-i2v"), in_channels=36))
    with pytest.raises(HarnessError, match="image_dim is 64, expected None"):
        widen(widen(model, geometry("tiny-i2v")), geometry("tiny-i2v"))
    with pytest.raises(HarnessError, match="reads no image"):
        widen(model, geometry("tiny"))


def test_channels_of_an_image():
    assert image_channels(16, 64) == 20
    assert image_channels(16, None) == 0
