"""What a recipe says. Numbers are the paper's (Table V, section V-A) where it has them, else ours (METHOD).

``policy`` is LeRobot's own policy configuration, so every option of LeRobot's is an option here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from igrft.rollouts.settings import EnvironmentSettings, RolloutSettings, RoundsSettings

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
else:
    # What stands there until know_policies() is called: LeRobot takes seconds to import.
    PreTrainedConfig = Any

#: What ``igrft train`` can run.
STAGES = ("sft", "offline_rl", "hil")
KINDS = ("demonstrations", "rollouts")


@dataclass
class DatasetEntry:
    """One labelled dataset: ``root`` (a folder) or ``repo_id`` (on the Hub).

    Attributes:
        kind: demonstrations, or rollouts of a policy.
        weight: share of every batch, relative to the other datasets' weights.
        episodes: those to use; None is all.
        streaming: read it in order, shuffled by buffers, instead of frame by frame from anywhere: for sets that do not
            fit on the disk or whose videos have few key frames. One on the Hub, or at a URL, is fetched as it is read.
        buffer_size: of a stream: frames in all buffers, of all processes, together. Their pictures are held in memory.
        shards: of a stream: episodes that are read side by side, divided among processes and workers.
    """

    root: str | None = None
    repo_id: str | None = None
    kind: str = "demonstrations"
    weight: float = 1.0
    episodes: list[int] | None = None
    streaming: bool = False
    buffer_size: int = 2048
    shards: int = 16


@dataclass
class RewardSettings:
    """How reward components are recombined (Eq. 7).

    Attributes:
        kind: hybrid (Eq. 4-7), or sparse: 1 on the last frame of a success (the baselines' reward).
        trajectory_weight: omega_traj.
        subtask_weight: omega_sub.
        discount: gamma, in (0, 1].
        idle_credit: False takes the trajectory reward off frames on which nothing moves, and spreads it over
            the others (ours: with 1/T a pause collects reward while the value stands still).
        idle_speed: below this share of the episode's median speed a frame is idle.
    """

    kind: str = "hybrid"
    trajectory_weight: float = 0.4
    subtask_weight: float = 0.6
    discount: float = 1.0
    idle_credit: bool = True
    idle_speed: float = 0.05


@dataclass
class AdvantageSettings:
    """N-step advantages (section IV-A.3).

    Attributes:
        source: critic (V of this and of the N-th next observation, computed in the loop, which costs a
            second prefix pass) or columns (the dataset's value columns, made by the ``values`` step).
        steps: N; None is the policy's chunk.
        refresh: with critic, steps after which the critic that judges is renewed; 1 is always the latest.
    """

    source: str = "critic"
    steps: int | None = None
    refresh: int = 1


@dataclass
class ObjectiveSettings:
    """What the actor minimises.

    Attributes:
        type: sft, awr, ig_awr or iql.
        frames: all; successes (episodes that succeeded); until_failure (of other episodes, the frames
            before the first subtask that was not done).
        beta: AWR's temperature.
        weight_limit: weights are clipped to [0, weight_limit].
        intervention_floor: least weight of frames on which a human overrode a policy; 0 is off.
        normalise_weights: divide by the batch's mean weight (Eq. 3 does not).
        expectile: of IQL's value.
        target_rate: of IQL's target network.
        flow_samples: flow times and noises drawn an observation.
        noise_scale: range from which the standard deviation of the training noise is drawn; [1, 1] is the
            flow's own.
        insulate: keep the flow loss out of the vision-language model (knowledge insulation).
        text_weight: of the subtask text loss.
    """

    type: str = "sft"
    frames: str = "all"
    beta: float = 0.05
    weight_limit: float = 10.0
    intervention_floor: float = 0.0
    normalise_weights: bool = False
    expectile: float = 0.7
    target_rate: float = 0.005
    flow_samples: int = 1
    noise_scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    insulate: bool = True
    text_weight: float = 1.0


@dataclass
class TextSettings:
    """Tokenizers of the language model.

    Attributes:
        tokenizer: folder or Hub id; None is the one that LeRobot uses for the policy; "bytes" is one of
            our own that needs no download, for tiny models.
        action_tokenizer: folder or Hub id of a FAST tokenizer; None leaves action tokens out.
        max_tokens: target tokens a sample may have; the rest is cut.
    """

    tokenizer: str | None = None
    action_tokenizer: str | None = None
    max_tokens: int = 64


@dataclass
class CriticSettings:
    """The critic of Appendix A and its own optimizer.

    Attributes:
        enabled: False trains none.
        layers: of an 18-layer model; others take the same fractions of their depth.
        start: step of this run from which it is updated.
        update_every: actor steps a critic step: 1, or 2 for the paper's frequency 0.5.
        holdout: share of the episodes that the critic never trains on (ours); the actor sees them.
        evaluate_every: steps between fits on held-out episodes; 0 is never.
        evaluate_frames: held-out frames looked at each time.
        patience: evaluations without a better fit after which the critic stops, at its best; None never stops.
    """

    enabled: bool = True
    layers: list[int] = field(default_factory=lambda: [11, 14, 17])
    queries: int = 8
    width: int = 256
    heads: int = 8
    hidden: int = 128
    learning_rate: float = 5e-6
    start: int = 2000
    update_every: int = 1
    holdout: float = 0.1
    evaluate_every: int = 1000
    evaluate_frames: int = 512
    patience: int | None = None


@dataclass
class ExplorationSettings:
    """Noise of rollouts (Eq. 2): kept with the run, so that whoever rolls out or evaluates it can say so.

    Attributes:
        type: interaction (T(s)), uniform, or off: the flow's own, 1.
        uniform: standard deviation where ``type`` is uniform.
    """

    type: str = "interaction"
    sigma_base: float = 1.5
    alpha: float = 0.9
    sigma_min: float = 0.2
    uniform: float = 1.0


@dataclass
class OptimizerSettings:
    """AdamW, cosine schedule with warm-up.

    Attributes:
        final_learning_rate: at the end of the cosine.
        ema: decay of the averaged weights, which are those saved; None saves the last ones.
        ema_device: "cpu" keeps them off the accelerator; None is the policy's device.
    """

    learning_rate: float = 5e-5
    final_learning_rate: float = 5e-6
    warmup_steps: int = 1000
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float | None = 0.999
    ema_device: str | None = None


@dataclass
class LoraSettings:
    """Low-rank adapters, merged into the weights where a checkpoint is saved.

    Attributes:
        rank: 0 trains the weights themselves.
        targets: regular expression over module names; None is every attention and MLP projection of the
            language model.
        full: regular expression over the parameters that are trained in full beside the adapters; None is
            the action expert and its projections.
    """

    rank: int = 0
    alpha: int | None = None
    dropout: float = 0.0
    targets: str | None = None
    full: str | None = None


@dataclass
class WandbSettings:
    """Weights & Biases: off unless asked for. The key is read from the environment, never stored."""

    enable: bool = False
    project: str = "igrft"
    entity: str | None = None
    name: str | None = None
    mode: str | None = None


@dataclass
class Recipe:
    """One run.

    Attributes:
        stage: sft, offline_rl or hil: what ``igrft train`` runs. Objectives are free in each.
        init_from: where weights (and, where it is there, the critic and the normalisation) come from: a run's
            folder, one of its checkpoints, a LeRobot checkpoint, or its id on the Hub.
        normalisation: auto keeps the statistics of ``init_from`` where igrft trained it and takes the datasets'
            otherwise; checkpoint or dataset insist.
        batch_size: samples a step over all processes and accumulation steps.
        cpu_threads: of PyTorch in a run on a CPU; None leaves its default. Small models are fastest on 1.
        precision: "bf16" runs the passes under autocast; None is the accelerator's default.
        sharding: "fsdp" shards parameters over processes; None replicates them.
        environment: what is driven. Where it is set, ``igrft train`` of stage hil runs every round; without it, the
            updates of one on the rollouts that ``datasets`` lists.
        rollout: how rollouts are made.
        rounds: of Stage III.
    """

    stage: str = "sft"
    policy: PreTrainedConfig | None = None
    datasets: list[DatasetEntry] = field(default_factory=list)
    init_from: str | None = None
    normalisation: str = "auto"
    output_dir: str | None = None
    seed: int = 0
    steps: int = 5000
    batch_size: int = 64
    gradient_accumulation: int = 1
    num_workers: int | None = None
    cpu_threads: int | None = None
    log_every: int = 50
    save_every: int = 1000
    keep_checkpoints: int | None = 3
    precision: str | None = None
    sharding: str | None = None
    allow_no_success: bool = False
    rewards: RewardSettings = field(default_factory=RewardSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    advantage: AdvantageSettings = field(default_factory=AdvantageSettings)
    text: TextSettings = field(default_factory=TextSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    exploration: ExplorationSettings = field(default_factory=ExplorationSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    rounds: RoundsSettings = field(default_factory=RoundsSettings)
    wandb: WandbSettings = field(default_factory=WandbSettings)


def know_policies() -> None:
    """Let ``Recipe.policy`` be read as LeRobot's configuration. Imports LeRobot."""
    from lerobot.configs import PreTrainedConfig

    # Whoever decodes a recipe resolves its annotations here.
    globals()["PreTrainedConfig"] = PreTrainedConfig
