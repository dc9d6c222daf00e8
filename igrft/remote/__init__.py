"""Datasets on object stores, by any fsspec URL.

A URL is read through a mirror: a folder on this machine that shows every object of the source under its name
(:mod:`~igrft.remote.mirror`). Metadata are files in it; tables and videos are links that lead nowhere until somebody
opens them through :func:`~igrft.remote.mirror.reading` (the bytes asked for, kept in blocks) or
:func:`~igrft.remote.mirror.here` (the file, whole). What was fetched is kept up to a limit
(:mod:`~igrft.remote.cache`). :mod:`~igrft.remote.upload` makes a finished folder the objects of a URL.
"""
