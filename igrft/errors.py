"""Errors that a user meets: one line that says what is wrong, where, and what to do."""

from __future__ import annotations


class IgrftError(Exception):
    """Anything that stops a command. The message is one line for the user; exit status 1."""


class UsageError(IgrftError):
    """The command was called wrongly (unknown key, bad value). Exit status 2."""


class EpisodeError(IgrftError):
    """This episode cannot be labelled or converted; the others can.

    The engine sets the episode aside with the message as its reason, unless ``--strict``.
    """


class NotApplicable(IgrftError):
    """This step has nothing to work on in this dataset, and nobody asked for it in particular.

    Raised by ``resolve``: the step is left out and the message is shown.
    """


def did_you_mean(wrong: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``"; did you mean X?"`` for the nearest known name, else the list of known names."""
    import difflib

    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
