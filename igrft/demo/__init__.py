"""The whole way on an embedded simulation: `igrft demo`."""
