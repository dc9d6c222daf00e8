"""LeRobot's robots and teleoperators: from a mapping with a ``type`` to a device, and how to let go of one."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from igrft.errors import IgrftError, UsageError, did_you_mean

log = logging.getLogger(__name__)


def make_robot_device(given: Mapping[str, Any] | None) -> Any:
    """LeRobot's ``Robot``, not connected, from a recipe's ``environment.robot``.

    Raises:
        UsageError: an unknown type or option, or a package that its driver needs is missing.
    """
    from lerobot.robots import RobotConfig, make_robot_from_config

    return _make(RobotConfig, "lerobot.robots", make_robot_from_config, given, "environment.robot", "so101_follower")


def make_teleop_device(given: Mapping[str, Any] | None) -> Any:
    """LeRobot's ``Teleoperator``, not connected, from a recipe's ``rollout.human.teleop``.

    Raises:
        UsageError: as :func:`make_robot_device`.
    """
    from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config

    where = "rollout.human.teleop"
    return _make(
        TeleoperatorConfig, "lerobot.teleoperators", make_teleoperator_from_config, given, where, "so101_leader"
    )


def connect(device: Any, what: str) -> None:
    """Connect a device; one that connects in part is let go of.

    Raises:
        IgrftError: it cannot be reached, or is not calibrated and nobody is there to ask.
    """
    if device.is_connected:
        return
    try:
        device.connect()
    except BaseException as error:
        disconnect(device)
        if isinstance(error, EOFError):
            raise IgrftError(f"{what} is not calibrated: run lerobot-calibrate once, in a terminal") from error
        if not isinstance(error, Exception) or isinstance(error, IgrftError):
            raise
        raise IgrftError(f"{what} cannot be connected: {one_line(error)}") from error
    if not device.is_connected:
        disconnect(device)
        raise IgrftError(f"{what} did not connect; see LeRobot's message above")


def disconnect(device: Any) -> list[str]:
    """Let go of a device whatever state it is in: torque, ports and cameras are LeRobot's to release.

    A LeRobot device calls itself connected when all its parts are, and refuses to disconnect otherwise. A robot
    whose camera died would keep its torque: its parts are therefore let go of one by one then.

    Returns:
        What went wrong, one line each.
    """
    try:
        return _release(device)
    except KeyboardInterrupt:  # a second Ctrl-C must not leave an arm under torque
        _release(device)
        raise


def cameras(device: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Cameras of a robot and of its arms, each with the start of its names (``left_``)."""
    found = getattr(device, "cameras", None)
    arms = {name: part for name, part in _parts(device) if name.endswith("_arm")}
    if isinstance(found, Mapping) and not arms:
        for key, camera in found.items():
            yield prefix + key, camera
    for name, arm in arms.items():
        yield from cameras(arm, prefix + name.removesuffix("arm"))


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _make(base: Any, package: str, make: Any, given: Mapping[str, Any] | None, where: str, example: str) -> Any:
    import draccus
    from draccus.utils import DraccusException
    from lerobot.cameras import CameraConfig

    if not given or "type" not in given:
        raise UsageError(f"{where}: name a device of LeRobot's by its type, such as {{type: {example}, port: …}}")
    _register(base, package, str(given["type"]), where)
    for camera in _camera_types(given):
        _register(CameraConfig, "lerobot.cameras", camera, f"{where}.cameras")
    try:
        config = draccus.decode(base, dict(given))
    except (DraccusException, TypeError, ValueError) as error:
        raise UsageError(f"{where}: {one_line(error.__cause__ or error)}") from error
    try:
        return make(config)
    except (ImportError, ValueError) as error:  # a driver's package is missing, or its options do not fit
        if isinstance(error.__cause__, IgrftError):  # of a device of ours, which LeRobot wraps
            raise error.__cause__ from None
        raise UsageError(f"{where}: {one_line(error)}") from error


def _register(base: Any, package: str, name: str, where: str) -> None:
    """Import the module that knows the type ``name``: LeRobot's own, igrft's, or an installed plugin's."""
    from lerobot.utils.import_utils import register_third_party_plugins

    if name in base.get_known_choices():
        return
    for module in _packages(package):
        try:
            importlib.import_module(module.name)
        except ImportError as error:  # the driver of another device, whose package is not installed
            log.debug("%s: %s", module.name, error)
        if name in base.get_known_choices():
            return
    register_third_party_plugins()
    known = sorted(base.get_known_choices())
    if name not in known:
        raise UsageError(f"{where}: type {name!r} is unknown{did_you_mean(name, known)}")


def _packages(folder: str) -> list[pkgutil.ModuleInfo]:
    """Packages in a folder of LeRobot's, and in igrft's of the same name where there is one."""
    found = []
    for each in (folder, folder.replace("lerobot.", "igrft.")):
        try:
            path = importlib.import_module(each).__path__
        except ModuleNotFoundError:
            continue
        found += [m for m in pkgutil.iter_modules(path, f"{each}.") if m.ispkg]
    return found


def _camera_types(given: Any) -> set[str]:
    """Types of the cameras in a configuration, wherever they stand in it."""
    found: set[str] = set()
    if isinstance(given, Mapping):
        for key, value in given.items():
            if key == "cameras" and isinstance(value, Mapping):
                found |= {str(c["type"]) for c in value.values() if isinstance(c, Mapping) and "type" in c}
            else:
                found |= _camera_types(value)
    return found


def _parts(device: Any) -> Iterator[tuple[str, Any]]:
    """What a device holds that can be disconnected: buses, cameras, arms."""
    for name, value in list(getattr(device, "__dict__", {}).items()):
        held = value.values() if isinstance(value, Mapping) else (value,)
        for part in held:
            if callable(getattr(part, "disconnect", None)) and hasattr(type(part), "is_connected"):
                yield name, part


def _connected(device: Any) -> bool:
    """A device that cannot even say so may still hold its motors."""
    try:
        return bool(device.is_connected)
    except Exception:
        return True


def _release(device: Any, seen: set[int] | None = None) -> list[str]:
    from lerobot.motors.motors_bus import MotorsBusBase

    seen = set() if seen is None else seen
    seen.add(id(device))
    wrong: list[str] = []
    if _connected(device):
        try:
            device.disconnect()
        except Exception as error:
            wrong.append(one_line(error))
    for part in [p for _, p in _parts(device) if id(p) not in seen]:
        if not isinstance(part, MotorsBusBase):
            wrong += _release(part, seen)
        elif _connected(part):
            try:
                part.disconnect(getattr(getattr(device, "config", None), "disable_torque_on_disconnect", True))
            except Exception as error:
                wrong.append(one_line(error))
    return wrong
