"""The pipeline samples as diffusers does, and by the rule; images do not depend on their batch."""

import logging
import sys

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from core import InDomainPipeline, NullTextUNet, Term
from core import sample as sample_module
from core.errors import UserError

from .conftest import tiny_controlnet, tiny_pipeline, tiny_unet

PICTURE = Image.new("RGB", (16, 16), "navy")


def load(folder, **kwargs) -> InDomainPipeline:
    pipe = InDomainPipeline.from_pretrained(folder, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def prior(tiny_sd):
    return load(tiny_sd)


@pytest.fixture
def pipe(prior):
    torch.manual_seed(1)
    prior.register_modules(domain_unet=NullTextUNet.from_prior(prior.unet, 3 * torch.randn(1, 1, 24)))
    with torch.no_grad():
        for parameter in prior.domain_unet.parameters():
            parameter.mul_(1.1)
    return prior


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


def draw(pipe, prompt, generator=None, **kwargs):
    kwargs = {"num_inference_steps": 4, "output_type": "pt", "generator": generator or seeds(0)} | kwargs
    return pipe(prompt, **kwargs).images


def test_an_image_does_not_depend_on_what_else_is_in_its_batch(pipe):
    together = draw(pipe, ["a vase", "a bowl", "a jar"], seeds(5, 6, 7), num_inference_steps=8)
    alone = draw(pipe, "a bowl", seeds(6), num_inference_steps=8)
    assert (together[1] - alone[0]).abs().max() <= 1e-4 and (together[0] - alone[0]).abs().max() > 1e-3


def test_the_steps_draw_noise_of_their_own_by_the_images_generator(prior):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sample = lambda seed: draw(prior, "a vase", seeds(seed), latents=noise)
    assert torch.equal(sample(1), sample(1)) and (sample(1) - sample(2)).abs().max() > 1e-3


def test_unconditional_sampling_in_a_domain_is_the_null_text_unet_alone(pipe, prior):
    called = []
    pipe.unet.register_forward_hook(lambda *_: called.append(1))
    unconditional = draw(pipe, None)
    assert not called
    z_t, t = torch.randn(1, 4, 8, 8), torch.tensor(400)
    with torch.no_grad():
        assert torch.equal(pipe.noise_predictor(None)(z_t, t), pipe.domain_unet(z_t, t).sample)
    assert (unconditional - draw(pipe, None, domain_scale=2.0)).abs().max() > 1e-4 and called


def test_the_pipelines_own_interval_is_taken_where_there_is_a_domain(pipe):
    pipe.register_to_config(guidance_interval=(0.0, 0.5))
    half, whole = (draw(pipe, "a vase", guidance_interval=interval) for interval in ((0.0, 0.5), (0.0, 1.0)))
    assert torch.equal(draw(pipe, "a vase"), half) and not torch.equal(half, whole)
    pipe.set_domain(None)
    assert torch.equal(draw(pipe, "a vase"), draw(pipe, "a vase", guidance_interval=(0.0, 1.0)))


def test_the_pipelines_own_guidance_every_is_taken_where_there_is_a_domain(pipe):
    called = []
    pipe.unet.register_forward_hook(lambda *_: called.append(1))
    pipe.register_to_config(guidance_every=2)
    assert torch.equal(draw(pipe, "a vase"), draw(pipe, "a vase", guidance_every=2)) and len(called) == 4  # at two of the four steps of each
    pipe.set_domain(None)
    draw(pipe, "a vase")
    assert len(called) == 4 + 4


def test_the_pipelines_own_weights_are_taken_for_a_prompt_in_a_domain_and_none_are_given(pipe):
    pipe.register_to_config(domain_scale=(2.0, 4.0), control_scale=(5.0, 3.0))
    own = draw(pipe, "a vase", domain_scale=[2.0, 4.0], control_scale=[5.0, 3.0])
    assert torch.equal(draw(pipe, "a vase"), own)
    assert torch.equal(draw(pipe, "a vase", domain_scale=[2.0, 4.0]), own)
    pipe.register_to_config(domain_scale=None, control_scale=None)
    first_weights = draw(pipe, "a vase")  # Sec. 3.4's
    assert not torch.equal(first_weights, own)
    pipe.register_to_config(domain_scale=(2.0, 4.0), control_scale=(5.0, 3.0))
    assert torch.equal(draw(pipe, "a vase", guidance_scale=pipe.config.guidance_scale), first_weights)
    pipe.set_domain(None)
    draw(pipe, "a vase")


def test_the_predictor_is_eq_3_over_prior_and_domain(pipe):
    z_t, t = torch.randn(2, 4, 8, 8), torch.tensor([100, 800])
    with torch.no_grad():
        eps_hat = pipe.noise_predictor("a vase", batch=2, domain_scale=3.0, control_scale=2.0)(z_t, t)
        read = lambda text: pipe.unet(z_t, t, pipe.encode_prompt([text] * 2)).sample
        eps_0, eps_c, eps_d = read(""), read("a vase"), pipe.domain_unet(z_t, t).sample
    assert torch.allclose(eps_hat, eps_0 + 3.0 * (eps_d - eps_0) + 2.0 * (eps_c - eps_0), atol=1e-5)


def test_the_domains_phrase_is_composed_into_the_prompt_and_said(pipe, caplog):
    pipe.register_to_config(phrase="a photo of {prompt}")
    with caplog.at_level(logging.INFO, logger="core"):
        composed = draw(pipe, "a vase")
    assert "a photo of a vase" in caplog.text
    assert torch.equal(composed, draw(pipe, "a photo of a vase", compose_prompt=False))
    assert not torch.equal(composed, draw(pipe, "a vase", compose_prompt=False))


def test_the_domains_negative_prompt_is_in_eps_0_of_composed_prompts_alone_and_said(pipe, caplog):
    plain = draw(pipe, "a jar of mine")
    pipe.register_to_config(negative_prompt="a jar")
    assert torch.equal(draw(pipe, "a jar of mine"), draw(pipe, "a jar of mine", negative_prompt="a jar"))
    with caplog.at_level(logging.INFO, logger="core"):
        assert not torch.equal(draw(pipe, "a jar of mine"), plain)
    assert "'a jar'" in caplog.text
    for settings in (dict(negative_prompt=""), dict(compose_prompt=False)):
        assert torch.equal(draw(pipe, "a jar of mine", **settings), plain)
    control = pipe.control(tiny_controlnet(pipe.unet), torch.rand(1, 3, 16, 16))
    for prompt, settings in ((None, {}), ("", dict(controls=[control])), ("a jar of mine", dict(control_scale=0.0))):
        assert torch.equal(draw(pipe, prompt, domain_scale=2.0, **settings), draw(pipe, prompt, domain_scale=2.0, negative_prompt="", **settings))


def test_a_prompt_that_is_the_negative_prompt_leaves_the_domain_its_say_alone(pipe):
    pipe.register_to_config(negative_prompt="a jar")
    alone = draw(pipe, None, domain_scale=3.0, negative_prompt="a jar")
    assert torch.allclose(draw(pipe, "a jar", domain_scale=3.0, control_scale=2.0), alone, atol=1e-4)


def test_a_negative_prompt_with_nothing_to_guide_away_from_it_is_said(pipe):
    said = dict(negative_prompt="a chair")
    for settings in ({}, dict(domain_scale=1.0), dict(domain_scale=[1, 1]), dict(domain_scale=torch.ones(2))):
        with pytest.raises(UserError, match="negative prompt has nothing to act on"):
            draw(pipe, None, **said, **settings)
    assert not torch.equal(draw(pipe, None, domain_scale=2.0, **said), draw(pipe, None, domain_scale=2.0))
    pipe.set_domain(None)
    with pytest.raises(UserError, match="negative prompt has nothing to act on"):
        draw(pipe, None, **said)


def test_controls_without_a_prompt_have_the_weights_of_those_with_an_empty_one(pipe):
    pipe.register_to_config(domain_scale=(2.0, 4.0), control_scale=(5.0, 3.0))
    controls = [pipe.control(tiny_controlnet(pipe.unet), torch.rand(1, 3, 16, 16))]
    own = draw(pipe, None, controls=controls, domain_scale=[2.0, 4.0], control_scale=[5.0, 3.0])
    assert torch.equal(draw(pipe, None, controls=controls), own) and torch.equal(draw(pipe, "", controls=controls), own)


def test_what_was_cut_off_a_long_prompt_is_said(prior, caplog):
    prior.encode_prompt(["a vase"])
    assert not caplog.text
    prior.encode_prompt(["aaaaaaaaaaaaaaaazz"])
    assert "zz" in caplog.text and "14 tokens" in caplog.text


def test_a_prompt_for_several_images_is_encoded_and_said_to_be_cut_once(prior, caplog):
    called = []
    prior.text_encoder.register_forward_hook(lambda encoder, inputs, kwargs, out: called.append(len(out[0])), with_kwargs=True)
    features = prior.encode_prompt(["a jar", "aaaaaaaaaaaaaaaazz"] * 4)
    assert called == [2] and caplog.text.count("cut off") == 1
    assert torch.allclose(features, torch.cat([prior.encode_prompt([p]) for p in ["a jar", "aaaaaaaaaaaaaaaazz"] * 4]), atol=1e-6)


def test_loading_warns_of_nothing(tiny_sd, caplog):
    load(tiny_sd)
    assert not [record for record in caplog.records if record.name.startswith(("core", "diffusers"))]


def test_saved_and_loaded_pipelines_sample_alike(pipe, tmp_path):
    pipe.register_to_config(phrase="a photo of {prompt}", negative_prompt="a jar", guidance_scale=4.0)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again.scheduler, DDIMScheduler) and again.config.guidance_scale == 4.0
    assert (draw(again, "a vase") - draw(pipe, "a vase")).abs().max() <= 1e-5


def test_images_encode_differentiably(prior):
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    latents = prior.encode_images(images)
    latents.square().sum().backward()
    assert latents.shape == (2, 4, 8, 8) and images.grad.abs().max() > 0


def test_the_callback_sees_and_may_change_the_latents(prior):
    seen = []

    def zero(pipe, step, t, tensors):
        seen.append(step)
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = draw(prior, "a vase", callback_on_step_end=zero, output_type="latent")
    assert seen == [0, 1, 2, 3] and not latents.any()


def test_a_call_leaves_no_state_in_the_scheduler(pipe):
    assert torch.equal(draw(pipe, "a vase"), draw(pipe, "a vase"))


@pytest.fixture
def dream(tmp_path):
    """A customised checkpoint: a UNet and a text encoder of its own, the prior's latent space."""
    theirs = tiny_pipeline()
    torch.manual_seed(7)
    theirs.unet, theirs.text_encoder = tiny_unet(), type(theirs.text_encoder)(theirs.text_encoder.config).eval()
    theirs.save_pretrained(tmp_path / "dream")
    return load(tmp_path / "dream")


def test_a_domain_folded_from_a_feature_samples_as_the_prior_under_that_feature(prior):
    feature = prior.encode_prompt(["a vase"])[:, 3:4]
    under_it = draw(prior, None, terms=[Term(prior.unet, feature, 5.0)])
    prior.register_modules(domain_unet=NullTextUNet.from_prior(prior.unet, feature))
    assert (draw(prior, None, domain_scale=5.0) - under_it).abs().max() <= 1e-5 < (draw(prior, None) - under_it).abs().max()


def test_complex_conditions_are_one_sum(pipe, dream):
    """Fig. 8: a domain, a prompt with a ControlNet, one without, and a customised checkpoint, over a negative prompt."""
    z_t, t, edges = torch.randn(2, 4, 8, 8), torch.tensor(600), torch.rand(1, 3, 16, 16)
    net = tiny_controlnet(pipe.unet)
    given = dict(controls=[pipe.control(net, edges, 0.7)], terms=[pipe.term("blue", 1.5), dream.term("a jar", 2.5)])
    with torch.no_grad():
        eps_hat = pipe.noise_predictor("a vase", "red", 2, domain_scale=3.0, control_scale=2.0, **given)(z_t, t)
        read = lambda pipe, text, **added: pipe.unet(z_t, t, pipe.encode_prompt([text] * 2), **added).sample
        down, mid = net(z_t, t, pipe.encode_prompt(["a vase"] * 2), edges.expand(2, -1, -1, -1), 0.7, return_dict=False)
        canny = read(pipe, "a vase", down_block_additional_residuals=down, mid_block_additional_residual=mid)
        eps = [(3.0, pipe.domain_unet(z_t, t).sample), (2.0, canny), (1.5, read(pipe, "blue")), (2.5, read(dream, "a jar"))]
        eps_0 = read(pipe, "red")
    assert torch.allclose(eps_hat, eps_0 + sum(w * (eps_i - eps_0) for w, eps_i in eps), atol=1e-5)
    assert (canny - read(pipe, "a vase")).abs().max() > 1e-3


def test_rectified_or_not_a_customised_checkpoint_needs_no_domain(prior, dream):
    """Fig. 12b: eps_0 is the prior's, or without rectification the checkpoint's own, which is that checkpoint's own pipeline."""
    z_t, t, term = torch.randn(1, 4, 8, 8), torch.tensor(500), dream.term("a jar", 7.5, negative_prompt="red")
    with torch.no_grad():
        eps_0, eps_c = (pipe.unet(z_t, t, pipe.encode_prompt([text])).sample for pipe, text in ((prior, ""), (dream, "a jar")))
        assert torch.allclose(prior.noise_predictor(None, terms=[term])(z_t, t), eps_0 + 7.5 * (eps_c - eps_0), atol=1e-5)
    own = draw(dream, "a jar", control_scale=7.5, negative_prompt="red")
    assert (draw(prior, None, terms=[term], rectify=False) - own).abs().max() <= 1e-5 < (draw(prior, None, terms=[term]) - own).abs().max()


def test_terms_and_controls_of_weight_0_change_nothing_and_are_not_called(pipe, dream):
    net, called = tiny_controlnet(pipe.unet), []
    for network in (net, dream.unet):
        network.register_forward_hook(lambda *_: called.append(1))
    nothing = dict(controls=[pipe.control(net, torch.rand(1, 3, 16, 16), 0.0)], terms=[dream.term("a jar", 0)])
    for own in ({}, {"domain_scale": (2.0, 4.0), "control_scale": (5.0, 3.0), "unconditional_scale": 3.0}):  # defaults hold as without the terms
        pipe.register_to_config(**own)
        for prompt, settings in (("a vase", {}), (None, {}), ("a vase", {"rectify": False})):
            assert torch.equal(draw(pipe, prompt, **nothing, **settings), draw(pipe, prompt, **settings))
        assert torch.equal(draw(pipe, "a vase", control_scale=0.0), draw(pipe, None)) and not called
        assert torch.equal(draw(pipe, None, guidance_scale=4.0), draw(pipe, "a vase", control_scale=0.0, guidance_scale=4.0))
        assert not torch.equal(draw(pipe, None, guidance_scale=4.0), draw(pipe, None, guidance_scale=2.0))  # w0 is the domain's alone
    pipe.unet.register_forward_hook(lambda *_: called.append(1))
    draw(pipe, "a vase", control_scale=0.0, domain_scale=1.0)
    assert not called


def test_weights_for_each_step_follow_the_samplers_steps(prior):
    seen = []
    prior.unet.register_forward_hook(lambda network, inputs, out: seen.append(len(inputs[0])))
    changing = draw(prior, "a vase", control_scale=[0.0, 1.0, 7.0, 7.0])
    assert seen == [1, 1, 2, 2]  # without the prompt, with nothing but the prompt, with both
    assert torch.equal(changing, draw(prior, "a vase", control_scale=[0, 1, 7, 7])) and not torch.equal(changing, draw(prior, "a vase", control_scale=7.0))


def test_images_take_the_size_of_what_their_controls_read(prior):
    control = prior.control(tiny_controlnet(prior.unet), Image.new("RGBA", (24, 20)))
    assert draw(prior, "a vase", controls=[control]).shape == (1, 3, 20, 24)


@pytest.mark.parametrize("wrong, said", [
    (dict(prompt=" "), "empty"), (dict(prompt=["a", ""]), "None"), (dict(prompt="a", height=15), "multiple of 2"),
    (dict(terms=[], rectify=False), "rectify"), (dict(prompt="a", strength=1.5, image=PICTURE), "strength is 1.5"),
    (dict(prompt="a", strength=0.2, image=PICTURE, num_inference_steps=4), "none of 4 steps: give 0.25"),
    (dict(prompt="a", mask_image=PICTURE), "no image"), (dict(prompt="a", image=PICTURE, mask_image=torch.zeros(1, 1, 8, 8)), "mask is 8 x 8"),
    (dict(prompt="a", image=torch.zeros(3, 3, 16, 16)), "3 pictures"),
    (dict(prompt="a", strength=0.03, image=PICTURE, num_inference_steps=30), "none of 30 steps: give 0.04"),
    (dict(prompt="a", image=PICTURE, mask_image=torch.zeros(3, 1, 16, 16)), "3 masks for 1 images"),
    (dict(prompt="a", guidance_scale=float("nan")), "guidance_scale is nan: give finite"), (dict(prompt="a", guidance_rescale=7.0), "guidance_rescale is 7.0"),
    (dict(prompt="a", control_scale=[1.0, float("inf")]), "control_scale is .*inf.*: give finite"),
    (dict(prompt="a", num_inference_steps=1001), "num_inference_steps is 1001: give 1 to 999$"),
    (dict(prompt="a", num_inference_steps=0), "num_inference_steps is 0"), (dict(prompt=["a", "b"], negative_prompt=["c"]), "negative_prompt"),
    (dict(prompt=[]), r"prompt is \[\]"), (dict(prompt="a", num_images_per_prompt=0), "num_images_per_prompt is 0"),
    (dict(prompt="a", generator=[torch.Generator()] * 2), "generator is a list of 2 for 1 images"),
    (dict(prompt=["a", "b"], latents=torch.zeros(1, 4, 8, 8)), r"latents are \(1, 4, 8, 8\), not \(2, 4, 8, 8\)"),
    (dict(prompt="a", latents=torch.zeros(1, 4, 8, 8), height=32), r"not \(1, 4, 16, 8\)"),
    (dict(prompt="a", latents=torch.zeros(4)), "latents are"),
    (dict(prompt="a", prompt_embeds=None), "no argument 'prompt_embeds'"), (dict(prompt="a", timesteps=[1]), "no argument 'timesteps'"),
    (dict(prompt="a", domain_scales=1), "'domain_scales': did you mean 'domain_scale'"),
    (dict(num_inference_step=9), "did you mean 'num_inference_steps'"),
])
def test_what_a_user_did_wrong_is_said(prior, wrong, said):
    with pytest.raises(UserError, match=said):
        prior(**wrong)


def test_steps_with_a_leading_spacing_are_fewer_than_the_schedules(prior):
    prior.scheduler = type(prior.scheduler).from_config(prior.scheduler.config, timestep_spacing="leading")
    with pytest.raises(UserError, match="num_inference_steps is 1000: give 1 to 999$"):
        prior("a", num_inference_steps=1000)


def test_a_negative_prompt_has_nothing_to_act_on_where_eps_0_takes_no_text(pipe):
    with pytest.raises(UserError, match="without rectification eps_0 is the domain's own"):
        draw(pipe, "a vase", negative_prompt="a bowl", rectify=False)
    own = draw(pipe, "a vase", rectify=False)
    pipe.register_to_config(negative_prompt="a bowl")
    assert torch.equal(draw(pipe, "a vase", rectify=False), own)


@pytest.mark.parametrize("given, said", [
    (dict(prompt="a", domain_scale=2.0), "domain_scale is 2.0 but there is no domain"),
    (dict(control_scale=0.0), "control_scale is 0.0 .* no prompt"),
])
def test_a_scale_of_what_is_not_there_is_said(prior, given, said):
    with pytest.raises(UserError, match=said):
        prior(**given)


def test_an_unknown_domain_is_said_before_the_prior_is_loaded(monkeypatch):
    monkeypatch.setattr(InDomainPipeline, "load_config", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match="unknown domain 'porcelan': did you mean 'porcelain'"):
        InDomainPipeline.from_pretrained("sd15", domain="porcelan")


def test_latents_set_the_size_of_the_images(prior):
    latents = torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    assert draw(prior, ["a", "b"], seeds(0, 1), latents=latents).shape == (2, 3, 20, 16)


def test_a_controlnet_of_another_precision_takes_the_priors(prior):
    net, picture = tiny_controlnet(prior.unet), torch.rand(1, 3, 16, 16)
    expected = draw(prior, "a vase", controls=[prior.control(net, picture)])
    assert (draw(prior, "a vase", controls=[prior.control(net.to(torch.bfloat16), picture)]) - expected).abs().max() < 0.1
    assert net.dtype == prior.unet.dtype


def test_conditions_that_do_not_fit_are_said(prior, tiny_sd, tmp_path):
    net = tiny_controlnet(prior.unet)
    for wrong, said in [
        (lambda: prior.control(tiny_sd / "unet", PICTURE), "holds a UNet2DConditionModel"), (lambda: prior.control(tmp_path, PICTURE), "no usable model"),
        (lambda: prior.control(tiny_controlnet(tiny_unet(cross_attention_dim=32)), PICTURE), "another prior .cross_attention_dim is 32"),
        (lambda: prior.control(prior.unet, PICTURE), "a UNet2DConditionModel is no ControlNet"),
        (lambda: prior.control(net, PICTURE, 1.0, 0.5, 0.5), "0.5 to 0.5"), (lambda: prior.control(net, PICTURE, 1.0, 0.0, 2.0), "_end: 0.0 to 2.0"),
        (lambda: prior("a", controls=[prior.control(net, PICTURE)], height=32), "16 x 16 px, the image 16 x 32"),
        (lambda: prior("a", controls=[prior.control(net, torch.zeros(3, 3, 16, 16))]), "3 control pictures"),
        (lambda: prior(["a", "b"], terms=[prior.term(["c"] * 3)]), "3 prompts for 2 images"),
        (lambda: prior(["a", "b"], terms=[prior.term("c", 1.0, ["d"] * 3)], rectify=False), "3 negative prompts for 2 images"),
        (lambda: prior("a", guidance_interval=(0.5, 1.5)), "guidance_interval: 0.5 to 1.5"),
        (lambda: prior("a", guidance_every=0), "guidance_every is 0"), (lambda: prior.domain_term(), "no domain"),
        (lambda: prior("a", terms=[Term(tiny_unet(in_channels=8))]), "8 channels"),
    ]:
        with pytest.raises(UserError, match=said):
            wrong()


@pytest.mark.parametrize("domain", [None, "porcelain"])
def test_the_kiln_loads_and_folds_exactly(kiln_weights, domain):
    pipe = load("kiln", domain=domain)
    z_t, t, feature = torch.randn(pipe.latent_shape(2)), torch.tensor([50, 900]), torch.randn(1, 1, pipe.unet.config.cross_attention_dim)
    folded = NullTextUNet.from_prior(pipe.unet, feature)
    with torch.no_grad():
        assert (folded(z_t, t).sample - pipe.unet(z_t, t, feature.expand(2, -1, -1)).sample).abs().max() <= 1e-5
        if domain is not None:
            v_d = pipe.domain_unet(z_t, t).sample
            alpha = pipe.scheduler.alphas_cumprod[t][:, None, None, None]
            assert pipe.scheduler.config.prediction_type == "v_prediction"
            assert 0.1 < v_d.norm() / pipe.unet(z_t, t, pipe.encode_prompt(["a vase"] * 2)).sample.norm() < 10
            assert torch.allclose(pipe.noise_predictor(None, batch=2, domain_scale=1.0)(z_t, t), alpha.sqrt() * v_d + (1 - alpha).sqrt() * z_t, atol=1e-5)
            assert (v_d - folded(z_t, t).sample).norm() > 1


@pytest.mark.parametrize("stop, raised", [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), UserError)])
def test_pictures_that_are_done_are_kept_when_sampling_is_stopped(stop, raised, tiny_sd, tmp_path, monkeypatch):
    calls, whole = [], InDomainPipeline.__call__

    def stopped(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise stop
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(InDomainPipeline, "__call__", stopped)
    command = f"sample --preset {tiny_sd} --domain none --num-images 5 --batch-size 2 --steps 1 --seed 7 --device cpu --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(raised, match="4 of 5 images are in"):
        sample_module.main()
    assert sorted(file.name for file in tmp_path.iterdir()) == [*(f"{seed:05d}.png" for seed in (7, 8, 9, 10)), "settings.json"]


@pytest.mark.parametrize("given, said", [
    ("--domain porcelian", "did you mean 'porcelain'"), ("--preset kilm", "did you mean 'kiln'"), ("--control-guidance-end 0.5", "no --control or --canny"),
])
def test_what_is_mistyped_leaves_no_folder(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample", *given.split()])
    with pytest.raises(UserError, match=said):
        sample_module.main()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_and_a_seed_too_large_are_said_before_any_image(tiny_sd, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for given, said in ((["--out", str(tmp_path / "file")], "cannot write to"), (["--out", str(tmp_path / "a"), "--seed", str(2**32)], "the seed is"),
                        (["--out", str(tmp_path / "a"), "--seed", str(2**32 - 1), "--num-images", "2"], "the seed is 4294967296")):
        monkeypatch.setattr(sys, "argv", ["sample", "--preset", str(tiny_sd), "--domain", "none", "--device", "cpu", *given])
        with pytest.raises(UserError, match=said):
            sample_module.main()
