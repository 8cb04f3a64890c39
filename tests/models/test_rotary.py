import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from harness.models.rotary import rotary_table, rotate

CPU = torch.device("cpu")


def test_table_is_the_stock_one():
    for head_dim in (24, 128):
        cos, sin = WanRotaryPosEmbed(head_dim, (1, 2, 2), 64)(torch.zeros(1, 1, 5, 6, 8))
        table = rotary_table(head_dim, 0, 5, 3, 4, CPU)
        assert torch.allclose(table.real, cos[0, :, :, ::2], atol=1e-7)
        assert torch.allclose(table.imag, sin[0, :, :, ::2], atol=1e-7)


def test_an_offset_is_a_slice_of_the_long_table():
    assert torch.equal(rotary_table(12, 4, 2, 3, 2, CPU), rotary_table(12, 0, 6, 3, 2, CPU)[4 * 6 :])


def test_rotation_keeps_norms_and_depends_on_differences_only():
    x = torch.randn(2, 3, 4, 12)
    near, far = (rotary_table(12, start, 3, 1, 1, CPU) for start in (0, 7))
    assert torch.allclose(rotate(x, near).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    scores = [torch.einsum("bqhd,bkhd->bhqk", rotate(x, t), rotate(x, t)) for t in (near, far)]
    assert torch.allclose(*scores, atol=1e-4)
    assert not torch.allclose(rotate(x, near), rotate(x, far), atol=1e-2)


def test_tables_stay_float32_for_bf16_inputs_and_serve_autograd_after_inference_mode():
    x = torch.randn(1, 5, 1, 12)
    with torch.inference_mode():
        table = rotary_table(12, 900, 5, 1, 1, CPU)
    exact = rotate(x.bfloat16().float(), table).bfloat16()
    assert torch.equal(rotate(x.bfloat16(), table), exact)
    x.requires_grad_()
    rotate(x, rotary_table(12, 900, 5, 1, 1, CPU)).sum().backward()
    assert x.grad is not None


def test_compiled_code_rotates_the_same_way(monkeypatch):
    x, table = torch.randn(2, 3, 4, 12), rotary_table(12, 5, 3, 1, 1, CPU)
    expected = rotate(x, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(rotate(x, table), expected, atol=1e-6)
