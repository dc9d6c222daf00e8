"""The settings of ``source: vlm``: flat keys of the `subtasks` step."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from igrft.errors import UsageError

#: Settings that decide what the model is shown, asked and allowed to answer. The host, the key, the cache, how
#: many calls are in flight and how patient they are decide nothing: the same model answers the same.
_DECISIVE = (
    "model",
    "camera",
    "frames_per_second",
    "window",
    "overlap",
    "sheet_columns",
    "sheet_rows",
    "tile_width",
    "jpeg_quality",
    "describe",
    "schema",
    "temperature",
    "max_tokens",
    "extra_body",
    "judge_success",
    "snap_window",
)
#: Of the author's machine or network: left out of ``meta/igrft.json``, which is published with the dataset.
#: ``extra_body`` may hold what lets a request through.
_PRIVATE = ("base_url", "serve_command", "cache", "api_key_env", "extra_body")


@dataclass(frozen=True)
class VlmSettings:
    """Which model, what it is shown, and how it is asked.

    Attributes:
        base_url: of the endpoint, up to ``/v1``. It may be left out where ``serve_command`` names ``{port}``.
        model: name of the model, as the server knows it.
        api_key_env: the environment variable that holds the key; the key itself is never a setting.
        serve_command: a command that serves the model: started before the first call, waited for, and stopped at
            the end. ``{port}`` in it is the port of ``base_url``, else a free one.
        serve_timeout: seconds that the server may take until it answers.
        camera: camera, or list of cameras, that the model sees; unset, the task file's, else the first that does not
            ride on the robot.
        frames_per_second: how densely the recording is sampled.
        window: seconds of recording in one question; longer episodes are asked in windows of this length at most.
        overlap: seconds that neighbouring windows share.
        sheet_columns, sheet_rows: frames across and down a contact sheet.
        tile_width: width of a frame on it, in pixels.
        jpeg_quality: 1 to 95.
        describe: let the model describe what it sees first, and segment its description in a second call.
        schema: constrain answers by a JSON schema: ``auto`` where the server takes one, ``always``, ``never``.
        temperature: of sampling; null leaves it to the server.
        max_tokens: longest answer.
        extra_body: further keys of the request, as the server documents them
            (``{chat_template_kwargs: {enable_thinking: false}}``).
        judge_success: let the model say whether the episode succeeded, where neither file nor dataset does.
        snap_window: seconds by which a boundary may move onto a gripper event or a change of motion; 0 for never.
        merge: without a task file, how names are merged into one vocabulary: by the ``model`` after spelling, or by
            ``spelling`` (case, articles, punctuation) alone.
        concurrency: calls in flight at a time.
        timeout: seconds for one call.
        retries: further tries of a call that failed (busy, cut off, timed out), with growing pauses.
        cache: folder of answers; default: ``$IGRFT_CACHE``, else the user's cache folder.
        ask_again: ask anew what was refused in an earlier run; other answers are still taken from the cache.
    """

    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    serve_command: str | None = None
    serve_timeout: float = 900.0
    camera: str | tuple[str, ...] | None = None
    frames_per_second: float = 4.0
    window: float = 40.0
    overlap: float = 4.0
    sheet_columns: int = 5
    sheet_rows: int = 4
    tile_width: int = 224
    jpeg_quality: int = 84
    describe: bool = True
    schema: Literal["auto", "always", "never"] = "auto"
    temperature: float | None = 0.0
    max_tokens: int = 4096
    extra_body: dict[str, Any] | None = None
    judge_success: bool = False
    snap_window: float = 0.0
    merge: Literal["model", "spelling"] = "model"
    concurrency: int = 8
    timeout: float = 180.0
    retries: int = 4
    cache: str | None = None
    ask_again: bool = False

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras asked for; empty where unset."""
        if self.camera is None:
            return ()
        return (self.camera,) if isinstance(self.camera, str) else self.camera

    @property
    def host(self) -> str:
        """Where frames go, for people: scheme, host and port; the command where it is ours."""
        if self.base_url is None:
            return "a server on this machine"
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    def decisive(self) -> dict[str, Any]:
        """What of the settings decides the labels."""
        found = {name: getattr(self, name) for name in _DECISIVE}
        return found | {"schema": self.schema != "never", "camera": self.cameras}

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: naming the key.
        """
        if not self.model:
            raise UsageError("step 'subtasks': source: vlm needs 'model', the model's name as the server knows it")
        if not self.base_url and not self.serve_command:
            raise UsageError(
                "step 'subtasks': source: vlm needs 'base_url' (http://host:port/v1), or a 'serve_command' that "
                "starts a server; give --steps.subtasks.base_url=URL"
            )
        self._check_places()
        positive = ("frames_per_second", "window", "timeout", "serve_timeout", "sheet_columns", "sheet_rows")
        for name in (*positive, "tile_width", "max_tokens", "concurrency"):
            if not getattr(self, name) > 0:
                raise UsageError(f"step 'subtasks': {name} must be positive, got {getattr(self, name)}")
        for name in ("snap_window", "retries", "overlap"):
            if getattr(self, name) < 0:
                raise UsageError(f"step 'subtasks': {name} must not be negative, got {getattr(self, name)}")
        if self.overlap > self.window / 2:
            raise UsageError(
                f"step 'subtasks': overlap must be at most half of window ({self.window} s), got {self.overlap}"
            )
        if not 1 <= self.jpeg_quality <= 95:
            raise UsageError(f"step 'subtasks': jpeg_quality must be 1 to 95, got {self.jpeg_quality}")
        if self.camera is not None and not all(self.cameras or ("",)):
            raise UsageError("step 'subtasks': camera must name a camera; leave it out for one that is chosen")
        self.check_density(self.frames_per_second)

    def check_density(self, rate: float) -> None:
        """Refuse windows that would show nothing, or nothing that changes.

        Args:
            rate: frames shown a second: as set, and no more than the recording has.

        Raises:
            UsageError: naming both keys.
        """
        # Windows have equal lengths, so that one may be half as long as is set: it then still holds a frame.
        if self.window * rate < 2:
            raise UsageError(
                f"step 'subtasks': a window of {self.window:g} s at {rate:g} frames a second shows less than two "
                "frames; raise window or frames_per_second"
            )

    def _check_places(self) -> None:
        if self.base_url:
            try:
                parts = urlsplit(self.base_url)
                port = parts.port
            except ValueError:
                # No number, or one beyond 65535; brackets that do not close.
                parts, port = urlsplit(""), None
            if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
                # Not shown: a key may have been put here by mistake.
                raise UsageError("step 'subtasks': base_url must look like http://host:port/v1")
            if parts.username or parts.password or parts.query or parts.fragment:
                raise UsageError(
                    "step 'subtasks': base_url must be no more than http://host:port/v1; a key goes into an "
                    "environment variable that 'api_key_env' names"
                )
            if self.serve_command and port is None:
                raise UsageError(
                    "step 'subtasks': serve_command needs the port in base_url (http://localhost:8000/v1), or no "
                    "base_url and {port} in the command"
                )
        elif "{port}" not in (self.serve_command or ""):
            raise UsageError("step 'subtasks': serve_command needs {port} in it where 'base_url' is not given")
        # Upper case alone, and not shown: what is no such name may be the key itself.
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise UsageError(
                "step 'subtasks': api_key_env must be the name of an environment variable (A-Z, 0-9, _), never the key"
            )

    def key(self) -> str | None:
        """The key, from the environment; None where none is needed.

        Raises:
            UsageError: the variable is not set, or holds what can be no key.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UsageError(
                f"the environment variable {self.api_key_env}, which 'api_key_env' of step 'subtasks' names, is not "
                "set; set it to the key of the endpoint"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            # Not shown, and sent to nobody: as a header it would be refused with the key in the message.
            raise UsageError(f"the environment variable {self.api_key_env} holds what can be no key (spaces, umlauts)")
        return key


#: Names of the settings.
VLM_KEYS = tuple(f.name for f in dataclasses.fields(VlmSettings))


def public(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a step without what belongs to its author's machine or network; of a model's folder its name."""
    found = {k: v for k, v in settings.items() if k not in _PRIVATE}
    if isinstance(model := found.get("model"), str) and _is_place(model):
        found["model"] = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    return found


def _is_place(model: str) -> bool:
    """Whether a model is named by where it lies, here or where it is served."""
    return re.match(r"[/~]|\.{1,2}/|[A-Za-z]:[/\\]", model) is not None or Path(model).is_dir()


def changed(settings: VlmSettings) -> list[str]:
    """Names of settings that are not at their default."""
    defaults = VlmSettings()
    return [name for name in VLM_KEYS if getattr(settings, name) != getattr(defaults, name)]


def sample_interval(settings: VlmSettings, fps: float) -> float:
    """Seconds between sampled frames: a recording has no more frames than it has."""
    return max(1.0 / settings.frames_per_second, 1.0 / fps)


def about(number: float) -> int:
    """A number rounded up to two digits, for estimates."""
    if number <= 0:
        return 0
    step = 10 ** max(0, int(math.log10(number)) - 1)
    return int(math.ceil(number / step) * step)
