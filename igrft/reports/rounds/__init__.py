"""The page of a Stage III run: what its rounds of rollouts and updates came to."""
