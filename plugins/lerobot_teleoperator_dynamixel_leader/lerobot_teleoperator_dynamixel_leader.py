"""Registers the types ``dynamixel_leader`` and ``bi_dynamixel_leader`` with LeRobot."""

from igrft.teleoperators.dynamixel_leader import BiDynamixelLeaderConfig, DynamixelLeaderConfig

__all__ = ["BiDynamixelLeaderConfig", "DynamixelLeaderConfig"]
