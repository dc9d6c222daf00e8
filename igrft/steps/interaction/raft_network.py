"""torchvision's RAFT, run for a stream of pictures: the same answer for less work.

torchvision's forward takes pairs. Over a stream it encodes every picture twice (as the second of a pair and as the
first of the next), and it brings the flow to full size after every update, where only the last is used. Its look-up
in the correlation volume makes its window on the host, update after update, which a GPU waits for. Here pictures are
encoded once, only the last flow is upsampled, and the look-up stays on the device. The layers, the weights and the
equations (Teed and Deng 2020, Section 3) are torchvision's; a test holds the flow equal to its.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

#: Height and width of the feature maps are those of the picture over this.
STRIDE = 8


class Network:
    """RAFT for consecutive pictures.

    Args:
        model: a ``torchvision.models.optical_flow.RAFT`` with its weights, on its device; taken over, not copied.
        updates: refinement iterations.
        dtype: of the layers and of the correlation volume. Coordinates, the blending of the look-up and the
            upsampling are float32 in any case: a flow of 100 pixels has steps of 1/16 in half precision.
        compiled: whether the parts are compiled by ``torch.compile`` when first run, for each size and batch.
    """

    def __init__(self, model: Any, updates: int, *, dtype: torch.dtype = torch.float32, compiled: bool = False) -> None:
        self.dtype, self.updates = dtype, updates
        self._model = model.eval().to(dtype)
        self._device = next(model.parameters()).device
        if self._device.type == "cuda":
            # cuDNN's half-precision convolutions want the channels last.
            self._model = self._model.to(memory_format=torch.channels_last)
        self._levels, self._radius = int(model.corr_block.num_levels), int(model.corr_block.radius)
        self._window = torch.arange(-self._radius, self._radius + 2, device=self._device)
        ready: Callable[[Any], Any] = partial(torch.compile, dynamic=False) if compiled else lambda part: part
        self._encode, self._start = ready(self._encode_part), ready(self._start_part)
        self._update, self._upsample = ready(self._update_part), ready(self._upsample_part)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the correlation compares, one picture at a time: [n, channels, h / 8, w / 8].

        Args:
            pictures: [n, 3, h, w] in -1 … 1, h and w multiples of 8.
        """
        found: torch.Tensor = self._encode(self._layout(pictures))
        return found

    def flow(self, pictures: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Flow from n pictures to those that follow them: float32 [n, 2, h, w], pixels to the right and down.

        Args:
            pictures: [n, 3, h, w], the first of each pair.
            first, second: their features and those of the pictures that follow.
        """
        grid = self._grid(first)
        hidden, context, *pyramid = self._start(self._layout(pictures), first, second)
        coordinates = grid
        for _ in range(self.updates):
            hidden, coordinates = self._update(hidden, context, coordinates, grid, pyramid)
        found: torch.Tensor = self._upsample(hidden, coordinates - grid)
        return found

    def _layout(self, pictures: torch.Tensor) -> torch.Tensor:
        pictures = pictures.to(self.dtype)
        return pictures.contiguous(memory_format=torch.channels_last) if self._device.type == "cuda" else pictures

    def _grid(self, like: torch.Tensor) -> torch.Tensor:
        """Where each feature is: float32 [n, 2, h / 8, w / 8], x before y."""
        n, _, height, width = like.shape
        y, x = (torch.arange(size, dtype=torch.float32, device=like.device) for size in (height, width))
        return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).expand(n, 2, height, width)

    def _encode_part(self, pictures: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._model.feature_encoder(pictures)
        return found

    def _start_part(
        self, pictures: torch.Tensor, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Hidden state, context, and the pyramid of correlations."""
        size = self._model.update_block.hidden_state_size
        hidden, context = torch.split_with_sizes(
            encoded := self._model.context_encoder(pictures), [size, encoded.shape[1] - size], dim=1
        )
        n, channels, height, width = first.shape
        # Scaled before they are multiplied: in half precision the sums would not fit.
        scale = channels**-0.25
        left, right = ((f.float() * scale).to(self.dtype).flatten(2) for f in (first, second))
        volume = torch.matmul(left.transpose(1, 2), right).view(n * height * width, 1, height, width)
        pyramid = [volume]
        for _ in range(self._levels - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], kernel_size=2, stride=2))
        return torch.tanh(hidden), F.relu(context), *pyramid

    def _update_part(
        self,
        hidden: torch.Tensor,
        context: torch.Tensor,
        coordinates: torch.Tensor,
        grid: torch.Tensor,
        pyramid: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One refinement: the new hidden state and coordinates."""
        n, _, height, width = coordinates.shape
        flow = (coordinates - grid).to(self.dtype)
        centre = coordinates.permute(0, 2, 3, 1).reshape(-1, 2)
        found = [self._look_up(volume, centre / 2**level) for level, volume in enumerate(pyramid)]
        seen = torch.cat(found, dim=1).view(n, height, width, -1).permute(0, 3, 1, 2)
        hidden, step = self._model.update_block(hidden, context, seen, flow)
        return hidden, coordinates + step.float()

    def _look_up(self, volume: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """Correlations around ``centre``, bilinear, 0 outside: [N, (2 r + 1)^2], x before y as torchvision orders them.

        All points of a window have the same fraction of a pixel, so that (2 r + 2)^2 neighbours and one pair of
        weights serve the whole of it.

        Args:
            volume: [N, 1, height, width].
            centre: float32 [N, 2], x and y in the volume's pixels.
        """
        _, _, height, width = volume.shape
        whole = torch.floor(centre)
        part = (centre - whole)[:, :, None, None]
        # Far outside nothing is seen; clamped, so that an integer holds it.
        x, y = (whole.clamp(-1e6, 1e6).long()[:, axis, None] + self._window for axis in (0, 1))
        inside = ((x >= 0) & (x < width))[:, :, None] & ((y >= 0) & (y < height))[:, None, :]
        index = y.clamp(0, height - 1)[:, None, :] * width + x.clamp(0, width - 1)[:, :, None]
        near = volume.flatten(1).gather(1, index.flatten(1)).view(index.shape).float() * inside
        near = near[:, :-1] + (near[:, 1:] - near[:, :-1]) * part[:, 0]
        near = near[:, :, :-1] + (near[:, :, 1:] - near[:, :, :-1]) * part[:, 1]
        return near.flatten(1).to(self.dtype)

    def _upsample_part(self, hidden: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """The flow at the pictures' size: a convex combination of its neighbours, or bilinear for ``raft_small``."""
        from torchvision.models.optical_flow._utils import upsample_flow

        predictor = self._model.mask_predictor
        found: torch.Tensor = upsample_flow(flow, None if predictor is None else predictor(hidden).float())
        return found
