"""Recording demonstrations by teleoperation, through LeRobot's own recorder."""
