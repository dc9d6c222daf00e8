"""Recordings of several timed streams (bags, HDF5, replay buffers, videos) to LeRobot v3.0."""
