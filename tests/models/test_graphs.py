"""Recorded functions: by shape, from and to memory of their own. CUDA's graphs themselves need a GPU."""

from __future__ import annotations

import threading

import pytest
import torch
from recorded import Recordable, traced

from igrft.models.compiled import compiling
from igrft.models.critic import Critic, CriticConfig
from igrft.models.graphs import Recorded
from igrft.models.inference import RecordedCritic
from igrft.models.protocol import Features

CPU = torch.device("cpu")


class Counting:
    """A capture that counts what it was asked for."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, function, inputs):
        self.shapes.append(tuple(inputs[0].shape))
        return traced(function, inputs)


def double(x, y):
    return 2 * x + y, x.sum(dim=0)


def test_each_shape_is_recorded_once_and_outputs_stay():
    capture = Counting()
    recorded = Recorded(double, CPU, capture)
    kept = []
    for n in (2, 3, 2, 3, 2):
        x, y = torch.randn(n), torch.randn(n)
        kept.append((recorded(x, y), double(x, y)))
    recorded(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    assert capture.shapes == [(2,), (3,), (2,)]
    for found, expected in kept:
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


def test_an_input_is_put_in_again_only_where_it_changed():
    recorded = Recorded(double, CPU, traced)
    x, y = torch.ones(2), torch.zeros(2)
    copied = []

    def calls():
        with Recordable() as mode:
            out = recorded(x, y)[0]
        copied.append(mode.calls["copy_"] - 2)  # two are the stand-in's own, for its outputs
        return out

    recorded(x, y)
    assert torch.equal(calls(), 2 * x) and copied[-1] == 0
    x += 1
    assert torch.equal(calls(), torch.full((2,), 4.0)) and copied[-1] == 1
    y = y.clone() + 1
    assert torch.equal(calls(), torch.full((2,), 5.0)) and copied[-1] == 1
    with torch.inference_mode():
        x = torch.ones(2)
        calls()
        x += 4  # not counted, so such tensors are always put in
        assert torch.equal(calls(), torch.full((2,), 11.0)) and copied[-1] == 1
    assert torch.equal(recorded(x, y)[0], torch.full((2,), 11.0))


def test_a_function_may_write_into_what_it_is_given():
    def writes(x):
        x[1:].fill_(7)
        return (x.sum(),)

    recorded = Recorded(writes, CPU, traced)
    x = torch.arange(3.0)
    for _ in range(2):
        assert recorded(x)[0] == 14 and torch.equal(x, torch.arange(3.0))
    x[0] = 5
    assert recorded(x)[0] == 19


def test_without_a_capture_it_is_the_function_without_gradient():
    x = torch.ones(2, requires_grad=True)
    found = Recorded(double, CPU, None)(x, x)
    assert torch.equal(found[0], torch.full((2,), 3.0)) and not found[0].requires_grad


def test_what_cannot_be_recorded_is_run():
    def fails(function, inputs):
        raise RuntimeError("no\n graphs")

    recorded, x = Recorded(double, CPU, fails), torch.ones(2)
    with pytest.warns(UserWarning, match="^kernels could not be recorded, so inference is slower: no graphs$"):
        assert torch.equal(recorded(x, x)[0], 3 * x)
    assert torch.equal(recorded(x, x)[0], 3 * x)


def test_what_cannot_be_compiled_is_run():
    def broken(graph, inputs):
        raise ValueError("no compiler")

    def plus(x):
        return x + 1

    x = torch.ones(2)
    tried = compiling(broken, must=False)(plus)
    with pytest.warns(UserWarning, match="^plus is not compiled, so it is slower: .*no compiler"):
        assert torch.equal(tried(x), x + 1)
    assert torch.equal(tried(x), x + 1)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed):
        compiling(broken)(plus)(x)
    assert compiling(broken) is compiling(broken) and compiling(broken)(plus) is compiling(broken)(plus)


def test_calls_of_several_threads_do_not_mix():
    recorded, wrong = Recorded(double, CPU, traced), []
    recorded(torch.zeros(64), torch.zeros(64))

    def ask(value: float) -> None:
        for _ in range(50):
            x = torch.full((64,), value)
            if not torch.equal(recorded(x, x)[0], 3 * x):
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(float(i),)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_recorded_critic_says_what_the_critic_says():
    torch.manual_seed(0)
    critic = Critic(CriticConfig(feature_width=16, blocks=2))
    judge = RecordedCritic(critic, traced)
    for rows, tokens in ((1, 5), (3, 5), (1, 9), (1, 5)):
        make = [torch.randn(rows, tokens, 16) for _ in range(4)]
        mask = torch.arange(tokens).expand(rows, -1) < tokens - 1
        features = Features(make[:2], make[2:], mask)
        found, expected = judge(features), critic(features)
        for name in ("trajectory", "subtask", "interaction_logit", "pooled"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        assert not found.trajectory.requires_grad
        torch.testing.assert_close(found.interaction_probability, expected.interaction_probability)


@pytest.mark.parametrize(
    "function",
    [lambda x: (x * float(x[0]),), lambda x: (x[x > 0],), lambda x: (x + torch.tensor(1.0),)],
    ids=["to the host", "shape by value", "from the host"],
)
def test_the_stand_in_refuses_what_cuda_would(function):
    with pytest.raises(AssertionError, match="cannot be recorded"):
        Recorded(function, CPU, traced)(torch.ones(2))
