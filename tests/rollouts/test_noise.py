import pytest

from igrft.errors import UsageError
from igrft.rollouts.noise import NoiseRule
from igrft.rollouts.protocols import Judgement


def judged(p):
    return Judgement(0.5, 0.5, 0.5, p)


def test_eq_2_with_the_papers_numbers():
    rule = NoiseRule("interaction")
    assert [rule.scale(judged(p)) for p in (0, 0.25, 0.5, 1)] == pytest.approx([1.7, 1.3625, 1.025, 0.35])
    assert rule.spread == pytest.approx((0.35, 1.7))


def test_the_other_choices_ask_no_critic():
    assert NoiseRule("off").scale(None) == 1.0
    assert NoiseRule("uniform", uniform=0.7).scale(None) == 0.7
    assert NoiseRule.fixed(0).scale(judged(0)) == 0


def test_eq_2_without_a_critic_is_refused():
    with pytest.raises(UsageError, match="the checkpoint has none"):
        NoiseRule("interaction").scale(None)


def test_it_says_where_noise_leaves_what_the_flow_has_seen():
    assert "T(s) reaches 1.7 and the flow was trained on noise up to 1" in str(NoiseRule("interaction").warning((1, 1)))
    assert NoiseRule("interaction").warning((0.35, 1.7)) is None
    assert NoiseRule("interaction", sigma_base=0.8).warning((1, 1)) is None
    assert NoiseRule.fixed(1.0).warning((1, 1)) is None
    assert "standard deviation 1.2" in str(NoiseRule.fixed(1.2).warning((1, 1)))
    assert NoiseRule("off").warning((1, 1)) is None


def test_a_temperature_is_not_negative():
    with pytest.raises(UsageError, match="must not be negative"):
        NoiseRule.fixed(-0.1)
