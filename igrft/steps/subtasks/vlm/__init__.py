"""Subtasks from a vision-language model behind an OpenAI-compatible endpoint.

What of LeRobot's steerable annotation pipeline is used: its contact sheets, by import (see :mod:`~.sheets`). What is
not: its client (no cache, time-out, retries or schema; an answer that is no JSON becomes a printed line and an episode
without labels; pictures go as PNG, five times the bytes), its frame provider (a second way to open video, and one
decoder behind a lock), its span cleaning (which mends what the model said, where a user should know that it was wrong)
and its prompts (which know no closed vocabulary). Describing first and then segmenting is its idea.
"""
