"""The method's maths: arrays in, arrays out. Imports nothing but numpy."""

from igrft.rewards.advantages import advantage_weights, effective_sample_size, n_step_advantages
from igrft.rewards.exploration import exploration_temperature, leaves_training_range
from igrft.rewards.hybrid import combine, potential, subtask_rewards, subtask_weights, trajectory_rewards
from igrft.rewards.returns import return_to_go

__all__ = [
    "advantage_weights",
    "combine",
    "effective_sample_size",
    "exploration_temperature",
    "leaves_training_range",
    "n_step_advantages",
    "potential",
    "return_to_go",
    "subtask_rewards",
    "subtask_weights",
    "trajectory_rewards",
]
