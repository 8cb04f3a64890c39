import pytest
from checkpoint_makers import I2V, random_state

from harness.errors import HarnessError
from harness.formats.key_names import bare, convention, diffusers_names
from harness.models.original_names import to_original

NAMES = list(random_state(I2V))


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.ffn.0.weight",
        "model.blocks.0.ffn.0.weight",
        "model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.ffn.0.weight",
        "_orig_mod.model.blocks.0._orig_mod.ffn.0.weight",
        "model.diffusion_model.blocks.0.ffn.0.weight",
        "diffusion_model.blocks.0.ffn.0.weight",
        "base_model.model.blocks.0.ffn.0.weight",
        "generator.model.blocks.0.ffn.0.weight",
        "_fsdp_wrapped_module.transformer.blocks.0.ffn.0.weight",
    ],
)
def test_wrappers_and_containers_are_taken_off(name):
    assert bare(name) == "blocks.0.ffn.0.weight"


def test_both_conventions_become_diffusers():
    original = to_original({name: name for name in NAMES})
    assert diffusers_names(original, "here") == original
    assert diffusers_names(NAMES, "here") == {name: name for name in NAMES}
    assert convention(original) == "original"
    assert convention(NAMES) == "diffusers"
    assert convention(["encoder.conv1.weight"]) is None


def test_what_no_network_reads_is_left_out():
    extra = "blocks.0.attn2.norm_added_q.weight"
    assert diffusers_names([*NAMES, extra], "here") == {name: name for name in NAMES}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["decoder.conv.weight"], "here: these are not the parameters of a Wan transformer"),
        (["blocks.0.self_attn.q.weight", "blocks.0.cross_attn.lynx.weight"], "unexpected parameters.*lynx"),
        (["blocks.0.self_attn.q.weight", "blocks.zero"], "unexpected parameters"),
        (["proj_out.bias", "model.proj_out.bias"], "proj_out.bias and model.proj_out.bias are the same parameter"),
        (["head.head.bias", "model.head.head.bias"], "are the same parameter"),
    ],
)
def test_what_cannot_be_named_is_refused(names, words):
    with pytest.raises(HarnessError, match=words):
        diffusers_names(names, "here")
