"""What sanitizers with learned strengths share."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from sanact.sanitizers.base import Sanitizer


class Learnable(Sanitizer):
    """A sanitizer whose strengths are parameters of the network it is attached to, saved with its weights.

    learnable: whether the strengths are learned; if not, they stay as given.
    `sanact.sanitize` creates the parameters, one per channel (unit of a vector), with the given values.  Using the sanitizer
    before that raises RuntimeError.  Parameters that still have these values, up to rounding to 16 bits, count as untrained.
    """

    learnable: bool = True

    @abstractmethod
    def starts(self, channels: int) -> dict[str, Tensor]:
        """The initial parameters, by name."""

    def made_for(self, channels: int, like: Tensor) -> None:
        if not self.learnable:
            return
        for name, start in self.starts(channels).items():
            own = self._parameters.get(name)
            if own is None:
                self.register_parameter(name, nn.Parameter(start.to(like.device, like.dtype)))
            elif own.shape != start.shape:
                raise ValueError(f"it was trained for {tuple(own.shape)} strengths, here are {channels} channels ({self})")

    @property
    def untrained(self) -> bool:
        if not self.learnable:
            return False
        own = {name: value.detach().cpu().float() for name, value in self._parameters.items() if value is not None}
        starts = self.starts(self._channels)
        return all(bool(((value == starts[name]) | (value == starts[name].half())).all()) for name, value in own.items())

    @property
    def _channels(self) -> int:
        return max((len(value) for value in self._parameters.values() if value is not None and value.ndim), default=1)

    def learned(self, name: str, maps: Tensor) -> Tensor:
        """A parameter as the maps need it; one per channel is shaped to broadcast against (N, C, H, W)."""
        value = self._parameters.get(name)
        if value is None:
            raise RuntimeError(f"its strengths are learned, one per channel: attach it with sanact.sanitize and train ({self})")
        if value.ndim != 1:
            return value.to(maps.dtype)
        return value.reshape((1, 1, 1, -1) if maps.shape[1:3] == (1, 1) else (1, -1, 1, 1)).to(maps.dtype)
