import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.planning.stand_ins import AsOnDevice


def mode(bf16=True):
    noted = []
    return AsOnDevice(bf16=bf16, note_cast=noted.append), noted


def test_fused_attention_makes_no_scores_and_has_a_backward_pass():
    q = torch.empty(1, 2, 100, 4, device="meta", requires_grad=True)
    with mode(bf16=False)[0]:
        out = functional.scaled_dot_product_attention(q, q, q)
    assert (out.shape, out.dtype) == (q.shape, torch.float32)
    assert "FlashAttention" in str(out.grad_fn.next_functions[0][0] if "Flash" not in str(out.grad_fn) else out.grad_fn)
    out.sum().backward()
    assert q.grad is not None


def test_products_run_in_bf16_and_no_cast_is_kept():
    layer, x = nn.Linear(4, 4, device="meta"), torch.empty(2, 4, device="meta")
    autocast, noted = mode()
    with autocast:
        assert layer(x).dtype == torch.bfloat16
        with torch.no_grad():
            layer(x)
        assert layer(x).requires_grad
        assert len(noted) == 6  # weight and bias, each time
        with torch.autocast("meta", enabled=False):
            assert layer(x).dtype == torch.float32
    assert len(noted) == 6
    assert torch.autocast is not autocast._region
    with pytest.raises(RuntimeError):
        torch.autocast("meta")
    with mode(bf16=False)[0]:
        assert layer(x).dtype == torch.float32
