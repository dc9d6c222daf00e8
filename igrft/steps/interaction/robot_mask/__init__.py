"""Where the robot is, by a segmenter: a step of its own, since masks cost more than all the rest.

:class:`RobotMask` finds masks at every n-th frame and stages them; :mod:`.carry` brings them to the frames between
by the flow that is computed anyway.
"""

from igrft.steps.interaction.robot_mask.step import ROBOT_MASK, RobotMask

__all__ = ["ROBOT_MASK", "RobotMask"]
