"""AdamW with a clipped gradient, over all of one adapter's parameters at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.optim.adamw import adamw

from tailorbird.errors import DataCorrupt

OPTIMIZER = "adamw_fused"
"""What GetTrainerInfo says."""

_CLIP_NORM = 1.0
_BETAS = (0.9, 0.99)
_EPSILON = 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")
_STEP = "step"


class Optimizer:
    """Works on weights, gradients and moments as one flat tensor each.

    A norm, a step and a copy are one kernel each, however many layers there are. The parameters
    must be views of one tensor (else ValueError); their gradients become views of another. Only
    copies wait for the device.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, weight_decay: float) -> None:
        self._parameters = parameters
        self._weight_decay = weight_decay
        self._weights = _whole(parameters)
        self._gradients = torch.zeros_like(self._weights)
        self._moments = {key: torch.zeros_like(self._weights) for key in _MOMENTS}
        self._step = torch.zeros((), dtype=torch.float32, device=self._weights.device)
        for name, gradient in self._named(self._gradients):
            parameters[name].grad = gradient

    def norm(self) -> torch.Tensor:
        """Return the Euclidean norm of the accumulated gradient, [] fp32."""
        norm: torch.Tensor = torch.linalg.vector_norm(self._gradients)
        return norm

    def largest_weight(self) -> torch.Tensor:
        """Return the largest magnitude among the weights, [] fp32; NaN if one is NaN."""
        largest: torch.Tensor = torch.linalg.vector_norm(self._weights, torch.inf)
        return largest

    @torch.no_grad()
    def step(self, rate: float, norm: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Take a step on the accumulated gradient, of norm `norm`, unless `skip` [] is 1.0.

        Gradients of a norm above 1 are scaled down to it. Returns the step's update-to-weight
        ratio, [] fp32: the Euclidean norm of the change of all weights together over that of the
        weights before it. NaN if those are all zero.
        """
        before = self._weights.clone()
        adamw(
            [self._weights],
            [self._gradients],
            [self._moments["exp_avg"]],
            [self._moments["exp_avg_sq"]],
            [],
            [self._step],
            fused=True,
            grad_scale=(norm / _CLIP_NORM).clamp(min=1.0),
            found_inf=skip,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=rate,
            weight_decay=self._weight_decay,
            eps=_EPSILON,
            maximize=False,
        )
        norm_before = torch.linalg.vector_norm(before)
        ratio: torch.Tensor = torch.linalg.vector_norm(before.sub_(self._weights)) / norm_before
        return ratio

    def clear(self) -> None:
        """Forget the accumulated gradient."""
        self._gradients.zero_()

    def copy(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return copies on the CPU: the weights by name, and the moments by name and moment."""
        weights = dict(self._named(self._weights.to("cpu", copy=True)))
        moments: dict[str, torch.Tensor] = {}
        for key, flat in self._moments.items():
            for name, moment in self._named(flat.to("cpu", copy=True)):
                moments[f"{name}.{key}"] = moment
        for name in self._parameters:
            moments[f"{name}.{_STEP}"] = self._step.to("cpu", copy=True)
        return weights, moments

    def load(
        self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]
    ) -> None:
        """Bring back what `copy` gave; DataCorrupt, and no change, if it is not this adapter's."""
        self.check(weights)
        for key in _MOMENTS:
            self.check({name: moments.get(f"{name}.{key}") for name in self._parameters})
        step = moments.get(f"{next(iter(self._parameters))}.{_STEP}")
        if step is None or step.numel() != 1:
            raise DataCorrupt("the optimizer's step count is missing")
        self.put(weights)
        for key, flat in self._moments.items():
            for name, moment in self._named(flat):
                moment.copy_(moments[f"{name}.{key}"])
        self._step.copy_(step.reshape(()))

    def check(self, tensors: Mapping[str, torch.Tensor | None]) -> None:
        """Raise DataCorrupt if there is not one tensor of the right shape for each parameter."""
        for name, parameter in self._parameters.items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != parameter.shape:
                raise DataCorrupt(f"its tensors are not this adapter's: {name}")

    def put(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Bring back the weights alone; training is over after that."""
        for name, weight in self._named(self._weights):
            weight.copy_(weights[name])

    def _named(self, flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Cut `flat`, [parameters], as the weights are."""
        for name, parameter in self._parameters.items():
            start = parameter.storage_offset()
            yield name, flat[start : start + parameter.numel()].view(parameter.shape)


def _whole(parameters: Mapping[str, nn.Parameter]) -> torch.Tensor:
    """Return the one flat tensor that all parameters are views of."""
    first = next(iter(parameters.values())).detach()
    whole = torch.empty(0, dtype=first.dtype, device=first.device).set_(first.untyped_storage())
    for name, parameter in parameters.items():
        if parameter.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
            raise ValueError(f"{name} is no view of the adapter's one tensor")
    return whole
