"""How a run went: losses and speed, thinned to a bounded size, and the gap between the losses."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

_MOST_POINTS = 256
_OPEN = 0.1
"""Nats by which the validation loss must lie above its best for the gap to be told as open."""
_RISE = 1.1
"""And how many times the best it must be."""


class Curve(BaseModel):
    """Losses in nats per trained token. A value: what adds to it returns another."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stride: int = 1
    """Every step whose number it divides is kept."""
    training: tuple[tuple[int, float, float], ...] = ()
    """(step, loss, learning rate)"""
    validation: tuple[tuple[int, float], ...] = ()
    """(step, loss)"""
    throughput: tuple[tuple[int, float], ...] = ()
    """(step, tokens per second since the point before)"""
    recent_loss: float = 0.0
    """Summed over the steps since the last evaluation."""
    recent_steps: int = 0
    told: bool = False
    """Whether the gap was told to be open."""

    def stepped(self, step: int, loss: float, rate: float) -> Curve:
        """Add a step's loss."""
        points, stride = self.training, self.stride
        if step % stride == 0:
            points = (*points, (step, loss, rate))
        if len(points) > _MOST_POINTS:
            stride *= 2
            points = tuple(point for point in points if point[0] % stride == 0)
        added = {"recent_loss": self.recent_loss + loss, "recent_steps": self.recent_steps + 1}
        return self.model_copy(update={"stride": stride, "training": points, **added})

    def evaluated(self, step: int, loss: float) -> Curve:
        """Add a validation loss; the steps before it are recent no more."""
        points = (*self.validation, (step, loss))
        if len(points) > _MOST_POINTS:
            # The first, the best and the last always stay.
            best = min(points, key=lambda point: point[1])
            kept = {points[0], best, points[-1], *points[::2]}
            points = tuple(point for point in points if point in kept)
        return self.model_copy(update={"validation": points, "recent_loss": 0.0, "recent_steps": 0})

    def paced(self, step: int, tokens_per_second: float) -> Curve:
        """Add how fast the steps up to this one were."""
        points = (*self.throughput, (step, tokens_per_second))
        if len(points) > _MOST_POINTS:
            points = points[::2]
        return self.model_copy(update={"throughput": points})

    @property
    def recent(self) -> float | None:
        """The mean training loss since the last evaluation; None without a step since then."""
        return self.recent_loss / self.recent_steps if self.recent_steps else None

    def opens(self, loss: float) -> bool:
        """Tell whether the run learns its records by heart, for the first time.

        Then `loss`, the next validation loss, lies well above the best one while the training loss
        lies below that.
        """
        after = [value for step, value in self.validation if step > 0]
        if not after or self.told or self.recent is None:
            return False
        return loss > max(min(after) * _RISE, min(after) + _OPEN) and self.recent < min(after)
