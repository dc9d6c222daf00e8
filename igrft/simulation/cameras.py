"""Pictures from MuJoCo's cameras, quickly: no shadows, no reflections, no multisampling."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from igrft.errors import IgrftError, UsageError, did_you_mean

#: Cameras that Meta-World mounts upside down: their pictures come out turned by half a turn.
TURNED = frozenset({"corner", "corner2", "corner3"})


class Cameras:
    """Renders an environment on demand.

    The OpenGL context belongs to the thread that first renders; nothing is made before that.
    """

    def __init__(self, env: Any, names: Sequence[str], width: int, height: int) -> None:
        """
        Args:
            env: from :func:`igrft.simulation.engine.make_environment`.
            names: of MuJoCo cameras.
            width, height: of a picture, in pixels.

        Raises:
            UsageError: no such camera, or a size that cannot be.
        """
        known = tuple(env.model.camera(i).name for i in range(env.model.ncam))
        for name in names:
            if name not in known:
                raise UsageError(f"the simulation has no camera {name!r}{did_you_mean(name, known)}")
        if width < 16 or height < 16:
            raise UsageError(f"pictures of {width}x{height} are too small; take at least 16x16")
        self.names = tuple(names)
        self.width, self.height = width, height
        self._env = env
        self._renderer: Any = None
        self._closer: weakref.finalize | None = None

    def picture(self, camera: str) -> np.ndarray:
        """What ``camera`` sees now: RGB, uint8 [H, W, 3]."""
        renderer = self._ready()
        renderer.update_scene(self._env.data, camera=camera)
        self._switch_off(renderer)
        return self._upright(renderer.render(), camera)

    def bodies(self, camera: str) -> np.ndarray:
        """Which body of the model ``camera`` sees in each pixel: int32 [H, W], -1 where there is none.

        Sites are drawn as well (a red dot on each fingertip), and belong to the body that carries them.
        """
        import mujoco

        renderer = self._ready()
        renderer.update_scene(self._env.data, camera=camera)
        renderer.enable_segmentation_rendering()
        try:
            seen = renderer.render()
        finally:
            renderer.disable_segmentation_rendering()
        number, kind = seen[..., 0], seen[..., 1]
        found = np.full(number.shape, -1, dtype=np.int32)
        model = self._env.model
        for drawn, carriers in (
            (mujoco.mjtObj.mjOBJ_GEOM, model.geom_bodyid),
            (mujoco.mjtObj.mjOBJ_SITE, model.site_bodyid),
        ):
            is_drawn = kind == int(drawn)
            found[is_drawn] = np.asarray(carriers)[number[is_drawn]]
        return self._upright(found, camera)

    def depth(self, camera: str) -> np.ndarray:
        """How far along the optical axis of ``camera`` each pixel's surface is: float32 [H, W], metres."""
        renderer = self._ready()
        renderer.update_scene(self._env.data, camera=camera)
        renderer.enable_depth_rendering()
        try:
            return self._upright(renderer.render(), camera)
        finally:
            renderer.disable_depth_rendering()

    def lens(self, camera: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Where ``camera`` is, float64 [3]; its axes (the picture's right and up, and backwards) as columns of
        [3, 3]; and its focal length in pixels.
        """
        seen = self._env.data.camera(camera)
        axes = seen.xmat.reshape(3, 3).copy()
        if camera in TURNED:
            axes[:, :2] *= -1
        focal = self.height / 2 / np.tan(np.radians(self._env.model.camera(camera).fovy[0]) / 2)
        return seen.xpos.copy(), axes, float(focal)

    def close(self) -> None:
        if self._closer is not None:
            self._closer()
            self._renderer = self._closer = None

    def _ready(self) -> Any:
        if self._renderer is None:
            import mujoco

            model = self._env.model
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
            model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
            try:
                self._renderer = mujoco.Renderer(model, height=self.height, width=self.width)
            except Exception as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise IgrftError(
                    f"MuJoCo cannot draw here ({first}); set MUJOCO_GL to egl or osmesa before the program starts, "
                    "or do without pictures"
                ) from error
            # At the end of the program EGL is gone before MuJoCo's own clean-up, which then complains.
            self._closer = weakref.finalize(self, self._renderer.close)
        return self._renderer

    @staticmethod
    def _switch_off(renderer: Any) -> None:
        import mujoco

        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = False

    @staticmethod
    def _upright(picture: np.ndarray, camera: str) -> np.ndarray:
        return np.ascontiguousarray(picture[::-1, ::-1]) if camera in TURNED else picture
