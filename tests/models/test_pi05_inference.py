"""Fast inference makes what the actor makes, and LeRobot's policy: in fixed shapes, compiled, recorded, guided."""

from __future__ import annotations

import pytest
import torch
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from recorded import Recordable, run_again, traced
from tiny_actor import LinearActor, one_thread  # noqa: F401
from tiny_pi05 import CHUNK, DIM, WIDTH, draws, gradients, tiny_batch, tiny_policy

from igrft.errors import UsageError
from igrft.models.critic import Critic, CriticConfig
from igrft.models.guidance import Guidance
from igrft.models.inference import for_inference
from igrft.models.pi05 import Pi05Actor
from igrft.models.pi05_inference import InferenceOptions, Pi05Inference
from igrft.models.protocol import Actor, TextTargets
from igrft.models.text import byte_tokenizer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LAYERS = (1, 2)


def noise_of(rows: int) -> torch.Tensor:
    return draws(rows)[0][:, 0]


@pytest.mark.parametrize("capture", [None, run_again], ids=["run", "recorded"])
@pytest.mark.parametrize("attention", ["sdpa", "matmul"])
@pytest.mark.parametrize("lengths", [(11, 19, 14), (16, 16, 16), (24, 3, 24), (7,), (1, 1)], ids=str)
def test_chunks_are_the_stock_inferences(capture, attention, lengths):
    """With a camera that the batch lacks; prompts of other lengths, and a full one."""
    policy = tiny_policy(cameras=3)
    batch, noise = tiny_batch(lengths), noise_of(len(lengths))
    expected = Pi05Actor(policy).sample(batch, noise)
    fast = Pi05Inference(policy, InferenceOptions(bucket=8, attention=attention), capture=capture)
    prefix = fast.prefix(batch, LAYERS)
    found = fast.denoise(prefix, noise)
    assert found.dtype == torch.float32 and found.shape == (len(lengths), CHUNK, DIM) and not found.requires_grad
    torch.testing.assert_close(found, expected, **CLOSE)
    fast.prefix(tiny_batch(lengths, seed=8), LAYERS)
    fast.denoise(prefix, noise + 1)
    assert torch.equal(fast.denoise(prefix, noise), found)
    torch.testing.assert_close(fast.sample(batch, noise), expected, **CLOSE)
    torch.manual_seed(3)
    drawn = fast.sample(batch)
    torch.manual_seed(3)
    torch.testing.assert_close(drawn, Pi05Actor(policy).sample(batch), **CLOSE)


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("chunk", [4, 5])
def test_steps_and_chunks_of_other_sizes(steps, chunk):
    policy = tiny_policy(num_inference_steps=steps, chunk_size=chunk, n_action_steps=chunk)
    batch, noise = tiny_batch(), torch.randn(3, chunk, WIDTH, generator=torch.Generator().manual_seed(2))
    expected = Pi05Actor(policy).sample(batch, noise)
    fast = Pi05Inference(policy, capture=run_again)
    torch.testing.assert_close(fast.denoise(fast.prefix(batch, ()), noise), expected, **CLOSE)


@pytest.mark.parametrize(
    ("n", "delay", "horizon", "capture"),
    [(3, 1, 10, None), (3, 1, 10, traced), (4, 0, 2, run_again), (2, 4, 3, run_again)],
)
def test_guided_chunks_are_the_stock_inferences(n, delay, horizon, capture):
    policy = tiny_policy(cameras=3)
    batch, noise = tiny_batch(), noise_of(3)
    rest = torch.randn(3, n, DIM, generator=torch.Generator().manual_seed(5))
    fast = Pi05Inference(policy, capture=capture)
    prefix = fast.prefix(batch, ())
    free = fast.denoise(prefix, noise)
    found = fast.denoise(prefix, noise, guidance=Guidance(rest, delay, horizon))
    policy.config.rtc_config = RTCConfig()
    policy.init_rtc_processor()
    expected = policy.predict_action_chunk(
        batch, noise=noise, inference_delay=delay, prev_chunk_left_over=rest, execution_horizon=horizon
    )
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (found - free).abs().max() > 1e-2
    assert torch.equal(fast.denoise(prefix, noise), free)


def test_features_are_the_actors():
    """The critic sees the same real tokens; padding is longer and masked."""
    policy, batch = tiny_policy(cameras=3), tiny_batch()
    fast, actor = Pi05Inference(policy, InferenceOptions(bucket=24), capture=run_again), Pi05Actor(policy)
    found, expected = fast.prefix(batch, LAYERS).features, actor.prefix(batch, LAYERS).features
    assert found.mask.sum(1).tolist() == expected.mask.sum(1).tolist()
    n = int(expected.mask.sum(1).min())
    for a, b in zip([*found.keys, *found.values], [*expected.keys, *expected.values], strict=True):
        torch.testing.assert_close(a[:, :n], b[:, :n], **CLOSE)
    critic = Critic(CriticConfig(actor.feature_width, len(LAYERS)))
    torch.testing.assert_close(critic(found).trajectory, critic(expected).trajectory, **CLOSE)


def test_several_prefixes_live_side_by_side():
    """What a robot's loop does: it judges while a chunk is being made of an earlier look."""
    policy = tiny_policy()
    fast, noise = Pi05Inference(policy, capture=traced), noise_of(1)
    batches = [tiny_batch((n,), seed=s) for n, s in ((9, 1), (10, 2), (20, 3))]
    expected = [Pi05Actor(policy).sample(b, noise) for b in batches]
    prefixes = [fast.prefix(b, LAYERS) for b in batches]
    for i in (2, 0, 1, 0):
        torch.testing.assert_close(fast.denoise(prefixes[i], noise), expected[i], **CLOSE)


def test_a_static_prefix_trains_and_targets_are_the_actors():
    policy = tiny_policy()
    fast, actor, batch, (noise, time) = Pi05Inference(policy), Pi05Actor(policy), tiny_batch(), draws(3)
    with torch.no_grad():
        found = fast.flow_error(fast.prefix(batch, ()), batch["action"], noise, time)
        expected = actor.flow_error(actor.prefix(batch, ()), batch["action"], noise, time)
    torch.testing.assert_close(found, expected, **CLOSE)
    targets = TextTargets(torch.full((3, 2), 7), torch.ones(3, 2, dtype=torch.bool))
    with_targets = fast.prefix(batch, (), targets)
    assert with_targets.text_loss is not None and with_targets.text_loss.requires_grad
    # Its cache is an actor's, which is denoised as the actor does.
    torch.testing.assert_close(
        fast.denoise(with_targets, noise[:, 0]), fast.denoise(fast.prefix(batch, ()), noise[:, 0]), **CLOSE
    )
    assert any(g.any() for g in gradients(policy, with_targets.text_loss.sum()).values())


def test_no_step_copies_the_cache_or_makes_something_of_its_time():
    """What a step copies is of a chunk's length; its products are counted: three steps less two."""
    calls, places = [], 0
    for steps in (2, 3):
        fast = Pi05Inference(tiny_policy(num_inference_steps=steps), InferenceOptions(attention="matmul"))
        cache = fast.prefix(tiny_batch(), ()).cache
        places = cache.whole.shape[4]
        with Recordable() as mode, torch.no_grad():
            fast._expert.integrate(noise_of(3), cache.whole, cache.mask)
        calls.append(mode.calls)
        # The mask of what is seen, once a chunk, is all that is made as long as the cache, but for its scores.
        long = [shape for shape in mode.copies if places in shape and len(shape) == 4 and shape[1] == 1]
        assert not [shape for shape in long if shape[-1] != places]
    step = {k: n - calls[0].get(k, 0) for k, n in calls[1].items()}
    layers = 3
    # Five products of weights a layer are four here; two of attention; both ends. No norm's linear layer, no time.
    assert step["mm"] + step.get("addmm", 0) == 4 * layers + 2 and step["bmm"] == 2 * layers
    assert step["copy_"] == layers and not step.get("sin") and not step.get("silu")


def test_prompts_are_padded_to_few_lengths():
    seen = []

    def counting(function, inputs):
        seen.append([tuple(x.shape) for x in inputs])
        return run_again(function, inputs)

    policy = tiny_policy()
    fast = Pi05Inference(policy, InferenceOptions(bucket=10), capture=counting)
    assert fast.lengths(24) == [10, 20, 24] and fast.lengths(20) == [10, 20] and fast.lengths(7) == [7]
    judged = []
    fast.warm_up(tiny_batch((5,)), LAYERS, lambda features: judged.append(features.mask.shape[1]), guided=True)
    assert judged == [8 + 10, 8 + 20, 8 + 24]
    warm = len(seen)
    for n in (1, 9, 10, 11, 20, 21, 24):
        prefix = fast.prefix(tiny_batch((n,)), LAYERS)
        fast.denoise(prefix, noise_of(1))
        fast.denoise(prefix, noise_of(1), guidance=Guidance(torch.ones(1, 3, DIM), 1))
    assert len(seen) == warm


def test_warming_up_settles_how_the_expert_attends():
    policy = tiny_policy()
    fast = Pi05Inference(policy, capture=run_again)
    assert fast.attention == "sdpa"
    fast.warm_up(tiny_batch())
    assert fast.attention in ("sdpa", "matmul")
    fixed = Pi05Inference(policy, InferenceOptions(attention="matmul"), capture=run_again)
    fixed.warm_up(tiny_batch())
    assert fixed.attention == "matmul"


def test_inference_mode_and_autocast_outside_change_nothing():
    policy = tiny_policy()
    batch, noise, guidance = tiny_batch(), noise_of(3), Guidance(torch.ones(3, 2, DIM), 1)
    for capture in (None, run_again):
        fast = Pi05Inference(policy, capture=capture)
        prefix = fast.prefix(batch, LAYERS)
        expected = fast.denoise(prefix, noise), fast.denoise(prefix, noise, guidance=guidance)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            prefix = fast.prefix(batch, LAYERS)
            found = fast.denoise(prefix, noise * 1), fast.denoise(prefix, noise, guidance=guidance)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


def test_half_precision_is_as_close_to_full_as_lerobots_own():
    """LeRobot's bfloat16 has rounding of its own; ours, picture encoder included, is of the same size."""
    ours, stock = [], []
    for seed in range(3):
        full, half = tiny_policy(seed), tiny_policy(seed, dtype="bfloat16")
        batch, noise = tiny_batch(seed=seed), noise_of(3)
        expected = Pi05Actor(full).sample(batch, noise)
        stock.append((Pi05Actor(half).sample(batch, noise) - expected).square().mean())
        fast = Pi05Inference(half, capture=run_again)
        assert fast.prefix(batch, ()).cache.whole.dtype == torch.bfloat16
        ours.append((fast.sample(batch, noise) - expected).square().mean())
    assert 0 < sum(ours) < 2 * sum(stock)


def test_the_policy_is_left_as_it_was():
    policy = tiny_policy(dtype="bfloat16")
    before = {n: (p.dtype, p.data_ptr(), p.requires_grad) for n, p in policy.named_parameters()}
    batch, noise = tiny_batch(), noise_of(3)
    stock = Pi05Actor(policy).sample(batch, noise)
    fast = Pi05Inference(policy, capture=run_again)
    fast.sample(batch, noise)
    assert before == {n: (p.dtype, p.data_ptr(), p.requires_grad) for n, p in policy.named_parameters()}
    assert torch.equal(Pi05Actor(policy).sample(batch, noise), stock) and not policy.training
    whole = Pi05Inference(policy, InferenceOptions(half_vision=False))
    assert (
        whole._eyes._norm is policy.model.paligemma_with_expert.paligemma.model.vision_tower.vision_model.post_layernorm
    )


def test_uint8_pictures_are_scaled():
    fast, batch = Pi05Inference(tiny_policy(), capture=run_again), tiny_batch()
    raw = {k: (v * 255).round().to(torch.uint8) if "images" in k else v for k, v in batch.items()}
    scaled = {k: v.float() / 255 if "images" in k else v for k, v in raw.items()}
    first, second = (fast.prefix(b, (0,)).features.keys[0] for b in (raw, scaled))
    assert torch.equal(first, second)


@pytest.mark.parametrize("compiled", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_make_the_same(compiled):
    policy = tiny_policy(cameras=3)
    options = InferenceOptions(compiled=True, backend=compiled, bucket=8)
    fast = Pi05Inference(policy, options)
    for lengths in ((11, 19, 14), (3, 2, 7)) if compiled == "inductor" else ((11, 19, 14),):
        batch, noise = tiny_batch(lengths), noise_of(3)
        torch.testing.assert_close(fast.sample(batch, noise), Pi05Actor(policy).sample(batch, noise), **CLOSE)
    fast.attend_by("matmul")
    torch.testing.assert_close(fast.sample(batch, noise), Pi05Actor(policy).sample(batch, noise), **CLOSE)


def test_for_inference():
    policy = tiny_policy()
    actor = Pi05Actor(policy, None, byte_tokenizer())
    critic = Critic(CriticConfig(actor.feature_width, len(LAYERS)))
    fast, judge = for_inference(actor, critic)
    assert isinstance(fast, Pi05Inference) and isinstance(fast, Actor) and judge is not None
    assert not policy.training and not critic.training
    assert for_inference(fast)[0] is fast and for_inference(actor)[1] is None
    assert for_inference(fast, judge) == (fast, judge)
    batch = tiny_batch()
    prefix = fast.prefix(batch, LAYERS)
    torch.testing.assert_close(judge(prefix.features).subtask, critic(prefix.features).subtask)
    assert fast.generate_subtasks(batch, 3) == actor.generate_subtasks(batch, 3)
    linear = LinearActor()
    assert for_inference(linear) == (linear, None)


def test_adapters_are_refused():
    from peft import LoraConfig, inject_adapter_in_model

    policy = tiny_policy()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=r".*gemma_expert.*q_proj"), policy)
    with pytest.raises(UsageError, match="merge adapters"):
        Pi05Inference(policy)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bucket": 0}, "bucket must be"),
        ({"attention": "flash"}, "unknown attention 'flash'; one of auto, sdpa, matmul"),
        ({"mode": "max-autotune"}, "take max-autotune-no-cudagraphs"),
        ({"mode": "reduce-overhead"}, "leave mode out"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        InferenceOptions(**wrong)


def test_full_size_on_a_gpus_tensors_without_a_gpu():
    """Types, devices and shapes of the recorded functions at full size in bfloat16, on tensors without data: nothing
    meets a tensor of the host, and nothing is asked of it."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.pi05.configuration_pi05 import PI05Config
    from torch._subclasses.fake_tensor import FakeTensorMode

    from igrft.models.actors import build_policy

    cameras = {f"observation.images.{n}": PolicyFeature(FeatureType.VISUAL, (3, 224, 224)) for n in "abc"}
    config = PI05Config(
        device="cpu", dtype="bfloat16", chunk_size=30, n_action_steps=30, num_inference_steps=2, input_features=cameras,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
    )  # fmt: skip
    config.device = "meta"
    with torch.device("meta"):
        policy = build_policy(config)
    with FakeTensorMode(), torch.device("cuda"):
        for name, module in policy.named_modules():
            # A copy of fake tensors is another mode's, so the picture encoder is bfloat16 from the start.
            half = any(part in name for part in ("vision_model.encoder", "post_layernorm", "multi_modal_projector"))
            for key, x in module._parameters.items():
                if x is not None:
                    kind = torch.bfloat16 if half else x.dtype
                    module._parameters[key] = torch.nn.Parameter(torch.empty(x.shape, dtype=kind))
            for key, x in module._buffers.items():
                module._buffers[key] = None if x is None else torch.empty(x.shape, dtype=x.dtype)
        fast = Pi05Inference(policy, InferenceOptions(compiled=False, recorded=False))
        tokens = torch.zeros(1, 96, dtype=torch.int64)
        pictures = [torch.empty(1, 3, 240, 320), *(torch.zeros(1, 3, 224, 224, dtype=torch.uint8) for _ in range(2))]
        with torch.no_grad(), Recordable():
            whole, real = fast._look(tuple(config.image_features), tokens, tokens == 0, *pictures)
            assert whole.shape == (18, 2, 1, 1, 3 * 256 + 96 + 32, 256) and whole.dtype == torch.bfloat16
            for attention in ("sdpa", "matmul"):
                fast.attend_by(attention)
                (out,) = fast._expert.integrate(torch.empty(1, 30, 32), whole, real)
                (flow,) = fast._expert.flow(torch.empty(1, 30, 32), fast._changes[1], whole, real)
                assert all(x.shape == (1, 30, 32) and x.dtype == torch.float32 for x in (out, flow))
                assert all(x.device.type == "cuda" for x in (out, flow, whole, real))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(dtype):
    """Compiled and recorded, with prompts of several lengths, against LeRobot's policy on the same GPU."""
    policy = tiny_policy(dtype=dtype).to("cuda")
    policy.config.device = "cuda"
    critic = Critic(CriticConfig(16, len(LAYERS))).to("cuda")
    fast, judge = for_inference(Pi05Actor(policy), critic)
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == "float32" else {"rtol": 0.05, "atol": 0.05}
    first = {k: v.to("cuda") for k, v in tiny_batch((5,)).items()}
    fast.warm_up(first, LAYERS, judge, guided=True)
    for n in (3, 24, 9, 3):
        batch = {k: v.to("cuda") for k, v in tiny_batch((n,), seed=n).items()}
        noise = noise_of(1).to("cuda")
        prefix = fast.prefix(batch, LAYERS)
        torch.testing.assert_close(judge(prefix.features).trajectory, critic(prefix.features).trajectory, **close)
        torch.testing.assert_close(fast.denoise(prefix, noise), Pi05Actor(policy).sample(batch, noise), **close)
        guidance = Guidance(torch.ones(1, 3, DIM, device="cuda"), 1)
        plain = Pi05Actor(policy)
        expected = plain.denoise(plain.prefix(batch, ()), noise, guidance=guidance)
        torch.testing.assert_close(fast.denoise(prefix, noise, guidance=guidance), expected, **close)


def test_stock_embedding_of_a_prefix_cannot_be_recorded():
    """Why the prefix is put together here: LeRobot's makes a tensor on the host."""
    policy = tiny_policy()
    batch = tiny_batch()
    images, masks = policy._preprocess_images(batch)
    words = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
    with pytest.raises(AssertionError, match="cannot be recorded"), Recordable():
        policy.model.embed_prefix(images, masks, *words)
