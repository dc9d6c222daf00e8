"""Which camera Eq. 1 looks through."""

from __future__ import annotations

import re

from igrft.columns import IMAGE_PREFIX
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, NotApplicable, did_you_mean
from igrft.steps.base import StepDefaults

# Names of cameras that ride on the robot, as public datasets have them.
_RIDES = re.compile(r"wrist|hand|gripper|eef|effector|flange|palm|finger|tool", re.IGNORECASE)
# Pictures that show no scene.
_NO_SCENE = re.compile(r"mask|depth|segment|flow|tactile", re.IGNORECASE)


def rides_on_robot(camera: str) -> bool:
    """Whether a camera's name says that it moves with the robot."""
    return bool(_RIDES.search(camera.removeprefix(IMAGE_PREFIX)))


def choose_camera(dataset: DatasetReader, wanted: str | None) -> str:
    """The camera asked for; unset, the first with files that does not ride on the robot by its name.

    Where all ride, the first with files. A camera whose name does not tell (a ``top`` that is
    mounted on the wrist) is found out by its moving background, see ``camera_motion``.

    Raises:
        NotApplicable: unset, and the dataset has no camera with files.
        IgrftError: unknown camera (naming the near miss), or one without files in any episode.
    """
    cameras = dataset.cameras
    if wanted is not None:
        if wanted not in cameras:
            near = IMAGE_PREFIX + wanted
            hint = f"; did you mean {near!r}?" if near in cameras else did_you_mean(wanted, cameras)
            if "did you mean" in hint and len(cameras) > 1:
                hint += f" Its cameras: {', '.join(cameras)}"
            raise IgrftError(f"step 'interaction': {dataset.root} has no camera {wanted!r}{hint}")
        if not dataset.camera_has_files(wanted):
            raise IgrftError(f"step 'interaction': camera {wanted!r} has no file in any episode; choose another")
        return wanted
    with_files = [k for k in cameras if dataset.camera_has_files(k)]
    if not with_files:
        raise NotApplicable(f"{dataset.root.name} has no camera with files, so step 'interaction' is left out")
    scenes = [k for k in with_files if not _NO_SCENE.search(k)] or with_files
    return next((k for k in scenes if not rides_on_robot(k)), scenes[0])


class LooksThroughCamera(StepDefaults):
    """What the heavy steps share: each decodes one camera."""

    camera: str | None
    threads: int

    @property
    def heavy(self) -> bool:
        return True

    def known_camera(self) -> str:
        """The camera; only a step that was resolved against a dataset has one."""
        if self.camera is None:
            raise IgrftError("step 'interaction' has no camera yet: call resolve(dataset) first")
        return self.camera

    def limit_threads(self) -> None:
        """A worker is one core: OpenCV's own threads would fight with the other workers'."""
        import cv2

        cv2.setNumThreads(max(self.threads, 1))
