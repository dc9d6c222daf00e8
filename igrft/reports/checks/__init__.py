"""The checks of `igrft validate`, one idea a module."""
