"""Dataset access: read and write LeRobot v3.0 files without importing LeRobot."""
