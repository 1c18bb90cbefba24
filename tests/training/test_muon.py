"""Muon: its update is the orthogonal factor of the momentum."""

import torch

from ccl_pack.ccl_core.training.muon import Muon, orthogonal


def test_orthogonal_flattens_the_singular_values_and_keeps_the_directions() -> None:
    matrix = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    for wide in (matrix, matrix.T):
        made = orthogonal(wide)
        u, _, v = torch.linalg.svd(wide, full_matrices=False)
        assert torch.linalg.svdvals(made).sub(1).abs().max() < 0.4
        assert torch.cosine_similarity(made.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_orthogonal_in_half_precision_is_within_two_percent() -> None:
    matrices = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    # Singular values over three orders, as a momentum has them.
    matrices = matrices * torch.logspace(0, -3, 48)
    exact = orthogonal(matrices)
    rounded = orthogonal(matrices, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.02 * exact.norm()
    assert torch.equal(orthogonal(matrices[1]), orthogonal(matrices)[1])


def test_muon_solves_a_regression() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 10, generator=generator)
    wanted = torch.randn(6, 10, generator=generator)
    weight = torch.zeros(6, 10, requires_grad=True)
    optimiser = Muon([weight], lr=0.1)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        loss = (inputs @ (weight - wanted).T).square().mean()
        weight.grad = None
        loss.backward()
        optimiser.step()
    assert (weight.detach() - wanted).abs().max() < 0.1
