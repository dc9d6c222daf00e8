"""Actors and critics: what is trained. See :mod:`igrft.models.protocol` for what they share."""
