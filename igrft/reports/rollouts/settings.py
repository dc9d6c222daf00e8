"""Which monitor the page replays: what the rollouts were recorded with, changed by the user's options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from igrft.errors import UsageError, did_you_mean
from igrft.rollouts.settings import MonitorSettings
from igrft.rollouts.stagnation import StagnationMonitor

_NUMBERS = ("window", "margin", "rise", "grace")
_PREFIX = "monitor."


@dataclass(frozen=True)
class ReplaySettings:
    """Attributes:
    monitor: what is replayed.
    within: seconds that a firing may lie before a takeover that it announces (ours).
    origin: where the settings come from, in words.
    """

    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    within: float = 5.0
    origin: str = "igrft's defaults"

    @property
    def words(self) -> str:
        """The settings as a reader needs them."""
        m = self.monitor
        rise = "no rise counts" if m.rise is None else f"rise {m.rise:g}"
        return f"window {m.window:g} s, margin {m.margin:g}, {rise}, grace {m.grace:g} s"


def replay_settings(recorded: Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> ReplaySettings:
    """The settings of the page.

    Args:
        recorded: ``settings`` of ``meta/igrft_rollout.json``, or None. What it does not say is igrft's default.
        overrides: of the user, as ``monitor.window=2.0``; ``monitor.rise=null`` looks at the margin alone.

    Raises:
        UsageError: an unknown setting, or a value that cannot be.
    """
    monitor, within, origin = _recorded(recorded)
    given: list[str] = []
    for override in overrides:
        name, _, text = override.partition("=")
        key = name.removeprefix(_PREFIX)
        known = [*_NUMBERS, "within"]
        if not name.startswith(_PREFIX) or key not in known:
            near = did_you_mean(name, [_PREFIX + k for k in known])
            raise UsageError(f"igrft report has no option --{name}{near}")
        value = _number(name, text, nothing=key == "rise")
        if key == "within":
            assert value is not None
            if value < 0:
                raise UsageError(f"--{name} must not be negative, got {value:g}")
            within = value
        else:
            monitor = _changed(monitor, {key: value})
            given.append(key)
    # It says what cannot be.
    StagnationMonitor.of(monitor, 30.0)
    if given:
        origin += f", but {', '.join(dict.fromkeys(given))} as given with the command"
    return ReplaySettings(monitor, within, origin)


def _recorded(recorded: Mapping[str, Any] | None) -> tuple[MonitorSettings, float, str]:
    default = ReplaySettings()
    rollout = (recorded or {}).get("rollout")
    held = rollout.get("monitor") if isinstance(rollout, Mapping) else None
    if not isinstance(held, Mapping):
        return default.monitor, default.within, default.origin
    kept = {k: held[k] for k in _NUMBERS if k in held and _is_number(held[k], nothing=k == "rise")}
    return _changed(default.monitor, kept), default.within, "those of the recording"


def _changed(monitor: MonitorSettings, values: Mapping[str, Any]) -> MonitorSettings:
    return replace(monitor, **values)


def _is_number(value: Any, *, nothing: bool) -> bool:
    if value is None:
        return nothing
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(name: str, text: str, *, nothing: bool) -> float | None:
    if nothing and text.strip().lower() in ("null", "none"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--{name} must be a number{', or null' if nothing else ''}, got {text!r}")
    return value
