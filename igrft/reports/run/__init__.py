"""The page of a training run: did it learn, and if it got worse, why. Needs no torch."""
