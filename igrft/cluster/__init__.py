"""`annotate` on many machines: the same pipeline, its steps as jobs of Slurm or Ray through datatrove's executors."""
