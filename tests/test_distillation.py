"""SDS: its gradient is the equation's."""

import pytest
import torch

from ingen3d.distillation import anneal, sds

ALPHAS = torch.linspace(0.999, 0.005, 1000)


class Recorder:
    """A noise predictor that keeps what it was asked."""

    def __call__(self, z_t, t):
        self.z_t, self.t = z_t, t
        return torch.tanh(z_t) * 1.7


def test_gradient_is_w_times_predicted_minus_true_noise():
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    predict = Recorder()
    sds(latents, predict, ALPHAS, (0.02, 0.98), torch.Generator().manual_seed(0)).backward()
    alpha = ALPHAS[predict.t].view(-1, 1, 1, 1)
    noise = (predict.z_t - alpha.sqrt() * latents.detach()) / (1 - alpha).sqrt()
    assert len(set(predict.t.tolist())) == 3, "one timestep for each sample"
    assert torch.allclose(latents.grad, (1 - alpha) * (torch.tanh(predict.z_t) * 1.7 - noise), atol=1e-5)


def test_with_eps_0_guidance_alone_is_distilled():
    latents, predict = torch.randn(2, 4, 8, 8, requires_grad=True), Recorder()
    sds(latents, predict, ALPHAS, (0.02, 0.98), torch.Generator().manual_seed(0), lambda z_t, t: 0.3 * z_t).backward()
    alpha = ALPHAS[predict.t].view(-1, 1, 1, 1)
    assert torch.allclose(latents.grad, (1 - alpha) * (torch.tanh(predict.z_t) * 1.7 - 0.3 * predict.z_t), atol=1e-5)


def test_the_predictor_gets_no_gradient_and_a_perfect_one_gives_none():
    latents, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.ones(1, requires_grad=True)

    def perfect(z_t, t):
        alpha = ALPHAS[t].view(-1, 1, 1, 1)
        return weight * (z_t - alpha.sqrt() * latents) / (1 - alpha).sqrt()

    sds(latents, perfect, ALPHAS, (0.3, 0.5), torch.Generator().manual_seed(0)).backward()
    assert weight.grad is None and latents.grad.abs().max() < 1e-5


@pytest.mark.parametrize("overflow", [float("inf"), -float("inf"), float("nan")])
def test_a_prediction_that_overflows_moves_nothing_and_spoils_no_other(overflow):
    latents = torch.randn(1, 4, 8, 8, requires_grad=True)

    def predict(z_t, t):
        eps = torch.ones_like(z_t)
        eps[0, 0, 0, 0] = overflow
        return eps

    sds(latents, predict, ALPHAS, (0.3, 0.5), torch.Generator().manual_seed(0)).backward()
    assert latents.grad[0, 0, 0, 0] == 0 and latents.grad.isfinite().all() and latents.grad.abs().sum() > 1


def test_timesteps_stay_in_the_annealed_range_and_follow_the_seed():
    predict, seen = Recorder(), []
    t_range = anneal((0.2, 0.98), (0.02, 0.3), 1.0)
    for seed in range(30):
        sds(torch.zeros(8, 1, 2, 2), predict, ALPHAS, t_range, torch.Generator().manual_seed(seed % 15))
        seen.append(predict.t)
    assert torch.equal(torch.stack(seen[:15]), torch.stack(seen[15:]))
    assert torch.stack(seen).min() >= 20 and 250 < torch.stack(seen).max() <= 300
    assert anneal((0.0, 1.0), (0.2, 0.5), 0.5) == pytest.approx((0.1, 0.75))
