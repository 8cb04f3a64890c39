"""Parameter counts and the published layout of the named geometries, on the meta device: nothing is allocated."""

import pytest
import torch
from attrs import asdict
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from harness.errors import HarnessError
from harness.models.presets import MODELS, build_model, geometry

COUNTS = {  # parameters, tensors
    "wan2.1-t2v-1.3b": (1_418_996_800, 825),
    "wan2.1-t2v-14b": (14_288_491_584, 1_095),
    "wan2.1-i2v-14b-480p": (16_394_878_784, 1_303),
    "wan2.1-i2v-14b-720p": (16_394_878_784, 1_303),
    "wan2.2-ti2v-5b": (4_999_787_712, 825),
}
PUBLISHED = {  # shapes of some parameters in the published checkpoints
    "wan2.1-t2v-1.3b": {
        "patch_embedding.weight": (1536, 16, 1, 2, 2),
        "blocks.29.ffn.net.0.proj.weight": (8960, 1536),
        "proj_out.weight": (64, 1536),
    },
    "wan2.1-t2v-14b": {"patch_embedding.weight": (5120, 16, 1, 2, 2), "blocks.39.ffn.net.2.weight": (5120, 13824)},
    "wan2.1-i2v-14b-720p": {
        "patch_embedding.weight": (5120, 36, 1, 2, 2),
        "blocks.39.attn2.add_k_proj.weight": (5120, 5120),
        "condition_embedder.image_embedder.ff.net.0.proj.weight": (1280, 1280),
        "condition_embedder.image_embedder.ff.net.2.weight": (5120, 1280),
        "proj_out.weight": (64, 5120),
    },
    "wan2.2-ti2v-5b": {
        "patch_embedding.weight": (3072, 48, 1, 2, 2),
        "blocks.29.ffn.net.0.proj.weight": (14336, 3072),
        "condition_embedder.text_embedder.linear_1.weight": (3072, 4096),
        "condition_embedder.time_proj.weight": (6 * 3072, 3072),
        "proj_out.weight": (192, 3072),
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_names_and_shapes_are_the_published_ones(name):
    """Every key and shape is that of the stock class of the published config, and the count is the published one."""
    model = build_model(name, device="meta")
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == COUNTS[name]
    with torch.device("meta"):
        stock = WanTransformer3DModel(**asdict(MODELS[name]))
    shapes = {key: value.shape for key, value in stock.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    assert {key: tuple(shapes[key]) for key in PUBLISHED[name]} == PUBLISHED[name]


def test_geometries():
    assert {name: (g.num_layers, g.num_attention_heads, g.ffn_dim, g.in_channels) for name, g in MODELS.items()} == {
        "tiny": (4, 4, 256, 21),  # 16 of the latent, 5 of the position
        "tiny-i2v": (4, 4, 256, 41),  # and 4 of the mask, 16 of the first latent
        "wan2.1-t2v-1.3b": (30, 12, 8960, 16),
        "wan2.1-t2v-14b": (40, 40, 13824, 16),
        "wan2.1-i2v-14b-480p": (40, 40, 13824, 36),
        "wan2.1-i2v-14b-720p": (40, 40, 13824, 36),
        "wan2.2-ti2v-5b": (30, 24, 14336, 48),
    }
    assert MODELS["wan2.1-i2v-14b-480p"] == MODELS["wan2.1-i2v-14b-720p"]
    assert geometry("wan2.2-ti2v-5b").dim == 3072
    assert geometry("wan2.2-ti2v-5b").tokens_per_frame(704 // 16, 1280 // 16) == 880
    assert geometry("wan2.1-t2v-1.3b").tokens_per_frame(60, 104) == 1560
    assert geometry("tiny").dim == 96


def test_the_untrained_network_predicts_zero_and_a_seed_fixes_it():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model("tiny"))
    x, t, text = torch.randn(1, geometry("tiny").in_channels, 2, 6, 6), torch.tensor([500.0]), torch.randn(1, 4, 64)
    assert not models[0](x, t, text).sample.any()
    assert build_model("tiny", zero_output=False)(x, t, text).sample.any()
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        assert torch.equal(a, b)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(HarnessError, match=r"'wan'.*tiny, tiny-i2v, wan2\.1-t2v-1\.3b"):
        build_model("wan")
