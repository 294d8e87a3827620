"""The multi-guidance rule is Eq. 3, with Sec. 3.4's first weights."""

from types import SimpleNamespace

import pytest
import torch

from core.guidance import MultiGuidance, PerpNeg, norm
from core.terms import Control, Term

from .conftest import tiny_unet

T = torch.tensor([300, 700])


class Linear:
    """A network whose prediction is known: gain * z_t plus its context's mean; keeps the sizes of its batches."""

    def __init__(self, gain: float):
        self.gain, self.batches = gain, []

    def __call__(self, z_t, t, encoder_hidden_states=None):
        self.batches.append(len(z_t))
        shift = 0 if encoder_hidden_states is None else encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=self.gain * z_t + shift)


def context(value: float, batch: int = 1, length: int = 5):
    return torch.full((batch, length, 3), value)


@pytest.fixture
def z_t():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_eq_3_with_explicit_weights(z_t):
    prior, domain, other = Linear(1.0), Linear(0.5), Linear(2.0)
    rule = MultiGuidance(Term(prior, context(0.0)), [Term(domain, weight=3.0), Term(prior, context(0.25), weight=2.0), Term(other, context(-1.0), weight=0.5)])
    eps_0 = z_t
    expected = eps_0 + 3.0 * (0.5 * z_t - eps_0) + 2.0 * (z_t + 0.25 - eps_0) + 0.5 * (2 * z_t - 1 - eps_0)
    assert torch.allclose(rule(z_t, T), expected, atol=1e-5)


@pytest.mark.parametrize("t", [T, torch.tensor(500)])
def test_with_only_a_text_term_it_is_classifier_free_guidance_bit_for_bit(z_t, t):
    unet = tiny_unet()
    empty, text = torch.randn(2, 7, 24), torch.randn(2, 7, 24)
    with torch.no_grad():
        both = unet(torch.cat([z_t] * 2), t.repeat(2) if t.ndim else t, encoder_hidden_states=torch.cat([empty, text])).sample
        eps_0, eps_c = both.chunk(2)
        assert torch.equal(MultiGuidance(Term(unet, empty), [Term(unet, text, 7.3)])(z_t, t), eps_0 + 7.3 * (eps_c - eps_0))


def test_in_fp16_no_weight_is_rounded(z_t):
    half = z_t.half()
    found = MultiGuidance(Term(Linear(1.0), context(0.0).half()), [Term(Linear(1.0), context(0.25).half(), 7.301)])(half, T)
    difference = ((half + 0.25) - half).float()
    assert found.dtype == torch.float16 and torch.equal(found, (half.float() + torch.tensor(7.301) * difference).half())
    assert not torch.equal(found, half + torch.tensor(7.301).half() * difference.half())


def test_first_weights_share_w0_so_that_the_weighted_norms_add_up_for_each_sample(z_t):
    z_t = z_t * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    prior, domain = Linear(1.0), Linear(0.4)
    rule = MultiGuidance(Term(prior, context(0.0)), [Term(domain), Term(prior, context(0.8))], guidance_scale=7.0)
    rule(z_t, T)
    eps_0, eps = z_t, [0.4 * z_t, z_t + 0.8]
    assert torch.allclose(rule.weights, torch.stack([3.5 * norm(eps_0) / norm(e) for e in eps]))
    assert torch.allclose(sum(w * norm(e) for w, e in zip(rule.weights, eps, strict=True)), 7.0 * norm(eps_0))
    assert not torch.allclose(rule.weights[1, 0], rule.weights[1, 1])


def test_weights_are_constants_to_a_gradient(z_t):
    rule = MultiGuidance(Term(Linear(1.0), context(0.0)), [Term(Linear(0.4))], guidance_scale=7.0)
    x = z_t.clone().requires_grad_()
    for _ in range(2):  # a second time: nothing is held of the first one's graph
        (gradient,) = torch.autograd.grad(rule(x, T).sum(), x)
    w = rule.weights[0].view(-1, 1, 1, 1)
    assert torch.allclose(gradient, (1 + w * (0.4 - 1)).expand_as(x))


@pytest.mark.parametrize("explicit", [[], [1.25], [1.25, 4.0]])
def test_w0_is_shared_by_the_terms_without_a_weight_alone(z_t, explicit):
    others = [Term(Linear(3.0), weight=w) for w in explicit]
    rule = MultiGuidance(Term(Linear(1.0)), [Term(Linear(0.5)), *others, Term(Linear(2.0))], guidance_scale=6.0)
    rule(z_t, T)
    assert torch.allclose(rule.weights[:, 0], torch.tensor([3 / 0.5, *explicit, 3 / 2.0]))


def test_weights_are_taken_at_the_first_call_and_held_and_explicit_ones_override(z_t):
    prior = Linear(1.0)
    rule = MultiGuidance(Term(prior, context(0.0)), [Term(prior, context(0.8)), Term(Linear(0.5), weight=1.25)])
    assert rule.weights is None
    rule(z_t, T)
    held = rule.weights.clone()
    rule(3 * z_t, T - 100)
    assert torch.equal(rule.weights, held) and torch.equal(held[1], torch.tensor([1.25, 1.25]))


def test_terms_of_one_network_share_one_forward_in_the_order_uncond_first(z_t):
    prior, domain = Linear(1.0), Linear(0.5)
    MultiGuidance(Term(prior, context(0.0)), [Term(domain), Term(prior, context(1.0)), Term(prior, context(2.0))])(z_t, T)
    assert prior.batches == [6] and domain.batches == [2]


def test_contexts_of_another_length_are_evaluated_apart(z_t):
    prior = Linear(1.0)
    rule = MultiGuidance(Term(prior, context(0.0)), [Term(prior, context(1.0, length=9), weight=2.0)])
    assert torch.allclose(rule(z_t, T), z_t + 2.0, atol=1e-5) and prior.batches == [2, 2]


def test_a_sample_does_not_depend_on_its_batch(z_t):
    unet, text = tiny_unet(), torch.randn(2, 7, 24)
    make = lambda c: MultiGuidance(Term(unet, torch.zeros(1, 7, 24)), [Term(unet, c)])
    with torch.no_grad():
        together = make(text)(z_t, T)
        for i in range(2):
            assert torch.allclose(make(text[i : i + 1])(z_t[i : i + 1], T[i : i + 1]), together[i : i + 1], atol=1e-5)


def test_without_terms_it_is_the_unconditional_prediction(z_t):
    assert torch.equal(MultiGuidance(Term(Linear(0.5)), [])(z_t, T), 0.5 * z_t)


def test_a_term_of_weight_0_is_not_evaluated_and_takes_no_share(z_t):
    prior, unused = Linear(1.0), Linear(3.0)
    text = Term(prior, context(0.8))
    rule = MultiGuidance(Term(prior, context(0.0)), [text, Term(unused, weight=0.0)])
    assert torch.equal(rule(z_t, T), MultiGuidance(Term(prior, context(0.0)), [text])(z_t, T)) and not unused.batches


def test_eps_0_is_not_evaluated_where_it_cancels(z_t):
    prior, domain, other = Linear(1.0), Linear(0.5), Linear(2.0)
    rule = MultiGuidance(Term(prior), [Term(domain, weight=0.25), Term(other, weight=0.75)])
    assert torch.allclose(rule(z_t, T), 0.25 * 0.5 * z_t + 0.75 * 2 * z_t) and not prior.batches


def test_several_weights_share_the_steps_evenly_for_each_sample(z_t):
    rule = MultiGuidance(Term(Linear(1.0)), [Term(Linear(2.0), weight=[0.0, 5.0])], timesteps=torch.tensor([900, 700, 500, 300]))
    for t, weights in [(900, (0, 0)), (700, (0, 0)), (500, (5, 5)), (torch.tensor([700, 300]), (0, 5))]:
        assert torch.allclose(rule(z_t, t), z_t + torch.tensor(weights).view(2, 1, 1, 1) * z_t)


def test_outside_its_interval_guidance_is_the_conditional_prediction(z_t):
    prior, domain, other = Linear(1.0), Linear(0.5), Linear(2.0)
    rule = MultiGuidance(Term(prior), [Term(domain, weight=6.0), Term(other, weight=2.0)], guidance_interval=(0.5, 1.0))
    assert torch.allclose(rule(z_t, 900), (0.75 * 0.5 + 0.25 * 2) * z_t) and not prior.batches
    assert torch.allclose(rule(z_t, 100), z_t + 6 * -0.5 * z_t + 2 * z_t, atol=1e-5)


@pytest.mark.parametrize("given, outside", [((3.0, -2.9), (1, 0)), ((-1.0, -2.0), (0, 0)), ((0.3, 0.2), (0.3, 0.2)), ((2.0, -1.0), (1, 0))])
def test_outside_its_interval_no_weight_grows_or_is_negative(z_t, given, outside):
    terms = [Term(Linear(gain), weight=w) for gain, w in zip((0.5, 2.0), given)]
    rule = MultiGuidance(Term(Linear(1.0)), terms, guidance_interval=(0.5, 1.0))
    assert torch.allclose(rule(z_t, 900), (1 - 0.5 * outside[0] + outside[1]) * z_t, atol=1e-6)
    assert torch.allclose(rule(z_t, 100), (1 - 0.5 * given[0] + given[1]) * z_t, atol=1e-5)


def test_first_weights_are_taken_even_where_guidance_is_not_yet_on(z_t):
    make = lambda interval: MultiGuidance(Term(Linear(1.0)), [Term(Linear(0.5)), Term(Linear(2.0))], guidance_interval=interval)
    late, always = make((0.5, 1.0)), make((0.0, 1.0))
    assert torch.allclose(late(z_t, 900), (3.5 / 0.5 * 0.5 + 3.5 / 2 * 2) / (3.5 / 0.5 + 3.5 / 2) * z_t)
    always(z_t, 900)
    assert torch.equal(late.weights, always.weights) and torch.equal(late(z_t, 100), always(z_t, 100))


def test_a_controlnet_works_in_its_share_of_the_steps_only(z_t):
    seen = []

    def net(z_t, t, encoder_hidden_states, controlnet_cond, conditioning_scale):
        seen.append(conditioning_scale.flatten().tolist())
        return SimpleNamespace(down_block_res_samples=[conditioning_scale], mid_block_res_sample=0)

    def unet(z_t, t, encoder_hidden_states, down_block_additional_residuals=(0,), mid_block_additional_residual=0):
        return SimpleNamespace(sample=z_t + down_block_additional_residuals[0])

    control = Control(net, torch.zeros(1, 3, 64, 64), 0.5, start=0.25, end=0.75)
    rule = MultiGuidance(Term(unet, context(0.0), controls=[control]), [], timesteps=torch.tensor([800, 600, 400, 200]))
    for t, added in [(800, (0, 0)), (600, (0.5, 0.5)), (200, (0, 0)), (torch.tensor([400, 200]), (0.5, 0))]:
        assert torch.equal(rule(z_t, t), z_t + torch.tensor(added).view(2, 1, 1, 1))
    assert seen == [[0.5, 0.5], [0.5, 0.0]]


def test_held_weights_refuse_a_batch_of_another_size(z_t):
    rule = MultiGuidance(Term(Linear(1.0)), [Term(Linear(0.5))])
    rule(z_t, T)
    with pytest.raises(ValueError, match="2 samples, not 1"):
        rule(z_t[:1], T[:1])


def test_a_network_that_predicts_v_is_turned_into_eps(z_t):
    alphas_cumprod = torch.linspace(0.999, 0.01, 1000)
    noise, a = torch.randn_like(z_t), alphas_cumprod[T].view(-1, 1, 1, 1)
    noisy, v = a.sqrt() * z_t + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z_t
    network = lambda z, t: SimpleNamespace(sample=v)
    assert torch.allclose(MultiGuidance(Term(network, alphas_cumprod=alphas_cumprod), [])(noisy, T), noise, atol=1e-5)


@pytest.mark.parametrize("prior_predicts_v", [False, True])
def test_networks_that_predict_eps_and_v_mix(z_t, prior_predicts_v):
    alphas_cumprod, eps_0, eps_1 = torch.linspace(0.999, 0.01, 1000), torch.randn_like(z_t), torch.randn_like(z_t)
    a = alphas_cumprod[T].view(-1, 1, 1, 1)
    v = lambda eps: (eps - (1 - a).sqrt() * z_t) / a.sqrt()
    says_eps = lambda eps, weight=None: Term(lambda z, t: SimpleNamespace(sample=eps), weight=weight)
    says_v = lambda eps, weight=None: Term(lambda z, t: SimpleNamespace(sample=v(eps)), weight=weight, alphas_cumprod=alphas_cumprod)
    first, second = (says_v, says_eps) if prior_predicts_v else (says_eps, says_v)
    rule, eps_hat = MultiGuidance(first(eps_0), [second(eps_1, 3.0)]), eps_0 + 3.0 * (eps_1 - eps_0)
    assert torch.allclose(rule(z_t, T), eps_hat, atol=1e-4)
    assert torch.allclose(rule.prediction(z_t, T, alphas_cumprod), v(eps_hat), atol=1e-4)


def test_perp_neg_avoids_a_context_only_as_far_as_it_lies_across_the_prompt(z_t):
    text, along, across = (torch.zeros_like(z_t) for _ in range(3))
    text[:, 0], along[:, 0], across[:, 1] = 1.0, 3.0, 2.0
    empty, *networks = (lambda z_t, t, eps=eps: SimpleNamespace(sample=eps) for eps in (torch.zeros_like(z_t), text, along, across))
    a_j = torch.tensor([-0.5, -1.5])
    avoid = [Term(network, weight=a_j) for network in networks[1:]]
    expected = 7.0 * (text + a_j.view(2, 1, 1, 1) * across)
    assert torch.allclose(PerpNeg(Term(empty), [Term(networks[0], weight=7.0)], avoid)(z_t, T), expected, atol=1e-5)
    assert torch.equal(PerpNeg(Term(empty), [Term(networks[0])], [])(z_t, T), MultiGuidance(Term(empty), [Term(networks[0])])(z_t, T))


def test_networks_compute_in_their_own_precision_and_the_rule_in_the_latents(z_t):
    unet, empty, text = tiny_unet(), torch.randn(1, 7, 24), torch.randn(1, 7, 24)
    with torch.no_grad():
        expected = MultiGuidance(Term(unet, empty), [Term(unet, text, 7.3)])(z_t, T)
        half = unet.to(torch.bfloat16)
        got = MultiGuidance(Term(half, empty), [Term(half, text, 7.3)])(z_t, T)
    assert got.dtype == torch.float32 and (got - expected).norm() < 0.1 * expected.norm()


STEPS = torch.tensor([900, 700, 500, 300, 100])


def test_between_steps_one_term_speaks_for_all_which_differ_from_it_as_they_last_did(z_t):
    prior, domain, other = Linear(1.0), Linear(0.5), Linear(2.0)
    terms = [Term(domain, weight=3.0), Term(prior, context(0.25), weight=2.0), Term(other, weight=0.5)]
    rule = MultiGuidance(Term(prior, context(0.0)), terms, guidance_every=2, timesteps=STEPS)
    eps_0 = lambda before, now: before + 0.5 * (now - before)  # it moves as the domain's prediction does
    hat = lambda before, now: eps_0(before, now) + 3 * -0.5 * before + 2 * 0.25 + 0.5 * before
    z = [z_t * k for k in (1, 3, -2, 5, 7)]
    for (before, now), t in zip([(0, 0), (0, 1), (2, 2), (2, 3), (4, 4)], STEPS):
        assert torch.allclose(rule(z[now], t), hat(z[before], z[now]), atol=1e-5)
    assert prior.batches == [4] * 3 and other.batches == [2] * 3 and domain.batches == [2] * 5


def test_a_term_that_comes_in_between_steps_has_all_evaluated_anew(z_t):
    prior, domain, late = Linear(1.0), Linear(0.5), Linear(2.0)
    rule = MultiGuidance(Term(prior), [Term(domain, weight=3.0), Term(late, weight=[0, 0, 0, 1, 1])], guidance_every=4, timesteps=STEPS)
    for t in STEPS:
        expected = rule(z_t, t)
    assert torch.allclose(expected, z_t + 3 * -0.5 * z_t + z_t, atol=1e-5)
    assert prior.batches == [2, 2] and late.batches == [2] and domain.batches == [2] * 5


def test_where_predictions_differ_by_a_constant_it_does_not_matter_how_often_all_are_evaluated(z_t):
    make = lambda every: MultiGuidance(Term(Linear(1.0), context(0.0)), [Term(Linear(1.0), context(0.5)), Term(Linear(1.0), context(-0.25))],
                                       guidance_every=every, timesteps=STEPS)
    always, seldom = make(1), make(5)
    for k, t in enumerate(STEPS):
        assert torch.allclose(seldom((k + 1) * z_t, t), always((k + 1) * z_t, t), atol=1e-5)


def test_the_first_term_speaks_for_all_where_eps_0_cancels_too(z_t):
    prior, domain, other = Linear(1.0), Linear(0.5), Linear(2.0)
    rule = MultiGuidance(Term(prior), [Term(domain, weight=3.0), Term(other, weight=1.0)], guidance_interval=(0.0, 0.4), guidance_every=2, timesteps=STEPS)
    for t in STEPS:
        expected = rule(z_t, t)
    assert torch.allclose(expected, (0.75 * 0.5 + 0.25 * 2) * z_t, atol=1e-6)
    assert (len(prior.batches), len(other.batches), len(domain.batches)) == (1, 3, 5)


def test_a_controlnet_that_goes_to_work_or_stops_has_all_evaluated_anew(z_t):
    at_work = []

    def net(z_t, t, encoder_hidden_states, controlnet_cond, conditioning_scale):
        at_work.append(int(t))
        return SimpleNamespace(down_block_res_samples=[conditioning_scale], mid_block_res_sample=0)

    def unet(z_t, t, encoder_hidden_states, down_block_additional_residuals=(0,), mid_block_additional_residual=0):
        return SimpleNamespace(sample=z_t + down_block_additional_residuals[0])

    control = Control(net, torch.zeros(1, 3, 64, 64), 1.0, start=0.2, end=0.8)
    terms = [Term(Linear(0.5), weight=2.0), Term(unet, context(0.0), weight=3.0, controls=[control])]
    rule = MultiGuidance(Term(Linear(1.0)), terms, guidance_every=5, timesteps=STEPS)
    added = [rule(z_t, t) - (z_t + 2 * -0.5 * z_t) for t in STEPS]
    assert [round(float(x.mean()), 4) for x in added] == [0, 3, 3, 3, 0] and at_work == [700]
