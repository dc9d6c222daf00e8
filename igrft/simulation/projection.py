"""The flow that a perfect camera algorithm would find on things: their true motion, projected into the picture.

The truth of Eq. 1 is metres; what a camera can see of them depends on distance, direction and size. With the perfect
flow one can tell a motion that no flow could find from one that a flow estimator missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from igrft.simulation.bodies import Bodies
from igrft.simulation.cameras import Cameras


@dataclass(frozen=True)
class View:
    """What a camera sees at a moment, in numbers.

    Attributes:
        bodies: int32 [H, W], the body in each pixel, -1 where there is none.
        depth: float32 [H, W], metres along the optical axis.
        position: float64 [3], of the camera, metres.
        rotation: float64 [3, 3], from the camera's axes (right, up, backwards, as the picture has them) to the world's.
        focal: focal length in pixels.
    """

    bodies: np.ndarray
    depth: np.ndarray
    position: np.ndarray
    rotation: np.ndarray
    focal: float

    @classmethod
    def of(cls, cameras: Cameras, camera: str) -> View:
        """What ``camera`` sees now."""
        return cls(cameras.bodies(camera), cameras.depth(camera), *cameras.lens(camera))


def thing_flow(
    view: View, bodies: Bodies, before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """True flow of the pixels that show a thing: float32 [H, W, 2], pixels to the right and down; 0 elsewhere.

    A pixel is taken back to its point on the thing, the point moves with the thing, and is projected again.

    Args:
        view: at the moment of ``before``.
        before, after: from :func:`igrft.simulation.truth.poses`.
    """
    height, width = view.bodies.shape
    flow = np.zeros((height, width, 2), dtype=np.float32)
    order = np.full(len(bodies.robot_bodies) + 1, -1)
    order[bodies.thing_bodies] = np.arange(len(bodies.thing_bodies))
    number = order[view.bodies]  # -1 is the last of ``order``, which is no thing
    rows, columns = np.nonzero(number >= 0)
    if len(rows) == 0:
        return flow
    which, depth = number[rows, columns], view.depth[rows, columns].astype(np.float64)
    right, down = columns + 0.5 - width / 2, rows + 0.5 - height / 2
    seen = np.stack([right * depth / view.focal, -down * depth / view.focal, -depth], axis=1)
    point = seen @ view.rotation.T + view.position
    turn = np.einsum("nij,nkj->nik", after[1], before[1])
    point = np.einsum("nij,nj->ni", turn[which], point - before[0][which]) + after[0][which]
    x, y, z = ((point - view.position) @ view.rotation).T
    flow[rows, columns, 0] = view.focal * x / -z - right
    flow[rows, columns, 1] = view.focal * -y / -z - down
    return flow
