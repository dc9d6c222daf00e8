"""A small flow-matching policy over low-dimensional state, as a LeRobot policy.

LeRobot's factories find a policy's parts by the names of its modules: ``configuration_*``, ``modeling_*`` and
``processor_*`` beside each other. Importing this package makes the type ``state_flow`` known to LeRobot; its own
commands do so with ``--policy.discover_packages_path=igrft.models.state_flow``.
"""

from igrft.models.state_flow.actor import StateFlowActor
from igrft.models.state_flow.configuration_state_flow import StateFlowConfig
from igrft.models.state_flow.modeling_state_flow import StateFlowPolicy
from igrft.models.state_flow.processor_state_flow import make_state_flow_pre_post_processors

__all__ = ["StateFlowActor", "StateFlowConfig", "StateFlowPolicy", "make_state_flow_pre_post_processors"]
