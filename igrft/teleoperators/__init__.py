"""LeRobot teleoperators that come with igrft. LeRobot finds those in the folder of its own; these, `igrft` finds."""
