"""Leader arms of Dynamixel servos (GELLO style) as LeRobot teleoperators: one chain, or two.

LeRobot's programs find them by ``--teleop.discover_packages_path=igrft.teleoperators.dynamixel_leader``.
"""

from igrft.teleoperators.dynamixel_leader.bi_leader import BiDynamixelLeader
from igrft.teleoperators.dynamixel_leader.config import (
    BiDynamixelLeaderConfig,
    DynamixelArmConfig,
    DynamixelLeaderConfig,
)
from igrft.teleoperators.dynamixel_leader.errors import LeaderError
from igrft.teleoperators.dynamixel_leader.leader import DynamixelLeader

__all__ = [
    "BiDynamixelLeader",
    "BiDynamixelLeaderConfig",
    "DynamixelArmConfig",
    "DynamixelLeader",
    "DynamixelLeaderConfig",
    "LeaderError",
]
