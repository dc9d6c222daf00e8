"""A recipe that trains in a second."""

TINY: dict = {
    "policy": {"type": "state_flow", "device": "cpu", "chunk_size": 4, "n_action_steps": 4, "width": 16},
    "steps": 6,
    "batch_size": 8,
    "log_every": 1,
    "save_every": 3,
    "objective": {"insulate": False, "text_weight": 0.0},
    "critic": {
        "queries": 2,
        "width": 16,
        "heads": 2,
        "hidden": 8,
        "start": 0,
        "evaluate_every": 3,
        "evaluate_frames": 32,
        "holdout": 0.25,
        "learning_rate": 1e-3,
    },
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
}
