"""Recordings in, LeRobot v3.0 out: older LeRobot versions and ALOHA's HDF5 episodes."""
