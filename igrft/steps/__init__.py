"""Labelling steps: each reads an episode and makes label columns."""
