"""The run of a training around its steps."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from ccl_pack.ccl_core.training.finetune.run import plain_attention


def test_plain_attention_is_for_bf16_on_a_cpu_and_ends_with_the_run() -> None:
    cpu = torch.device("cpu")
    flags = torch.backends.cuda
    before = flags.flash_sdp_enabled(), flags.fp16_bf16_reduction_math_sdp_allowed()
    with plain_attention(cpu, torch.bfloat16):
        assert (flags.flash_sdp_enabled(), flags.fp16_bf16_reduction_math_sdp_allowed()) == (False, True)
    for device, compute in ((cpu, torch.float32), (torch.device("meta"), torch.bfloat16)):
        with plain_attention(device, compute):
            assert (flags.flash_sdp_enabled(), flags.fp16_bf16_reduction_math_sdp_allowed()) == before
    assert (flags.flash_sdp_enabled(), flags.fp16_bf16_reduction_math_sdp_allowed()) == before


def test_plain_attention_gives_the_gradients_of_the_fused_one() -> None:
    q, k, v = torch.randn(3, 2, 4, 30, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    q.requires_grad_()
    fused = torch.autograd.grad(scaled_dot_product_attention(q, k, v).float().square().sum(), q)[0]
    with plain_attention(torch.device("cpu"), torch.bfloat16):
        plain = torch.autograd.grad(scaled_dot_product_attention(q, k, v).float().square().sum(), q)[0]
    # bf16 has 8 bits; both round at several places.
    assert (plain - fused).float().norm() < 0.02 * fused.float().norm()
