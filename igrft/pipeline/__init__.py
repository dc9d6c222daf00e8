"""Runs labelling steps over a dataset and writes the labelled one."""
