"""AdamW on the adapter, with warm-up, linear decay, clipping, and fp16's loss scale.

The arithmetic of AdamW is torch's. What is written out here is what surrounds it: which learning
rate an update gets, and when there is no update at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from minihmx.config import Config, learning_rate
from minihmx.errors import DataError

MOMENTS = ("exp_avg", "exp_avg_sq")
# After so many good updates the loss scale doubles. torch's own scaler waits for 2,000 of them,
# which are 44 epochs here, so a scale that was halved once would stay halved for the whole run.
GROWTH_INTERVAL, LARGEST_SCALE = 50, 2.0**24


class Outcome(NamedTuple):
    """What became of a step. norm: the gradient's, before clipping. rate: the learning rate.

    failed: "loss" or "gradient" was not finite, and nothing was applied; "update" was applied and
    made a parameter infinite, so the run is lost.
    """

    norm: float
    rate: float
    failed: Literal["", "loss", "gradient", "update"] = ""


class Overflow(ArithmeticError):
    """The scaled gradient left the range of fp16. The scale is halved: do the backward again."""


def finite_all(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; on a GPU this waits for the answer."""
    return bool(torch.isfinite(tensor).all())


class Optimizer:
    """One AdamW over the adapter's parameters, by PEFT's names.

    `update` counts the updates that were applied. A refused step advances neither it nor the
    schedule, so the next step gets the rate that the refused one would have had.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: Config, steps: int):
        self.parameters, self.config = dict(parameters), config
        self.total = steps * config.iterations
        self.update = 0
        # fp16 rounds gradients below 3e-8 to zero, and an answer's share of the loss is small. The
        # loss is multiplied by this scale before the backward, and the gradients are divided by it
        # afterwards. 2 ** 16 is where torch's own scaler starts as well.
        self.scale = 2.0**16 if config.dtype == "float16" else 1.0
        self.since_growth = 0
        # Scale and since_growth before this step's first overflow; None if nothing overflowed yet.
        self.before_overflow: tuple[float, int] | None = None
        self.moved = False  # whether an update is known to have changed the adapter
        self.moments: dict[str, list[Tensor]] = {}  # by MOMENTS, from the first update on

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch to what is there."""
        (loss * self.scale).backward()  # type: ignore[no-untyped-call]

    def unscale(self, loss: float) -> float:
        """Divide the gradients by the loss scale; returns their norm over all parameters.

        Raises Overflow for a norm that is not finite while the scale is above 1 and the loss is
        finite, after halving the scale.
        """
        gradients = self._gradients()
        # One call for all matrices rather than one for each: there are hundreds, and small ones.
        if self.scale != 1:
            torch._foreach_div_(gradients, self.scale)
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
        if math.isfinite(loss) and not math.isfinite(norm) and self.scale > 1:
            # torch's scaler would drop the batch here. The answers are still good, and making them
            # cost most of the step's time, so the same backward is repeated with half the scale.
            self.before_overflow = self.before_overflow or (self.scale, self.since_growth)
            self.scale, self.since_growth = self.scale / 2, 0
            raise Overflow
        return norm

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def step(self, loss: float, norm: float) -> Outcome:
        """Clip the gradient, whose norm `unscale` gave, and apply it, if loss and norm are finite.

        This is the one check of a whole step. Whatever was not finite on the way here, from a
        sampled logit to an advantage, has made the loss NaN or infinite by now.
        """
        rate = learning_rate(self.update, self.total, self.config)
        if not math.isfinite(loss):
            return self._refuse(norm, rate, "loss")
        if not math.isfinite(norm):
            return self._refuse(norm, rate, "gradient")
        # A gradient that is too long keeps its direction and becomes shorter. The 1e-6 prevents a
        # division by 0: the norm is 0 where no group had any advantage and beta is 0.
        torch._foreach_mul_(self._gradients(), min(1.0, self.config.max_grad_norm / (norm + 1e-6)))
        self.adam(rate)
        self.update += 1
        self.before_overflow, self.since_growth = None, self.since_growth + 1
        if self.config.dtype == "float16" and self.since_growth == GROWTH_INTERVAL:
            self.scale, self.since_growth = min(self.scale * 2, LARGEST_SCALE), 0
        # A finite gradient and a finite rate can still push a parameter over fp32's edge. Then the
        # adapter is lost, and the caller must not save it.
        largest = torch._foreach_norm([p.detach() for p in self.parameters.values()], math.inf)
        intact = finite_all(torch.stack(largest))
        return Outcome(norm, rate, "" if intact else "update")

    @torch.no_grad()
    def adam(self, rate: float) -> None:
        """Move the parameters, and both moments of their gradients, by one step of AdamW."""
        given = {name: p for name, p in self.parameters.items() if p.grad is not None}
        for name, parameter in given.items():
            if name not in self.moments:
                self.moments[name] = [torch.zeros_like(parameter) for _ in MOMENTS]
        averages, squares = ([self.moments[name][i] for name in given] for i in (0, 1))
        # This is the function that torch.optim.AdamW calls. The class would take a second to import
        # torch's compiler, which this does not need. AdamW's bias correction asks for the steps of
        # each parameter; here all have had the same number, which is that of the updates.
        adamw(
            list(given.values()),
            [gradient.contiguous() for gradient in self._gradients()],  # fused knows no strides
            averages,
            squares,
            [],
            [torch.tensor(float(self.update)) for _ in given],
            # On a CPU this is one kernel for each parameter, instead of a dozen.
            fused=all(p.device.type == "cpu" for p in given.values()) or None,
            amsgrad=False,
            beta1=self.config.adam_beta1,
            beta2=self.config.adam_beta2,
            lr=rate,
            weight_decay=self.config.weight_decay,
            eps=self.config.adam_epsilon,
            maximize=False,
        )

    def _refuse(self, norm: float, rate: float, failed: Literal["loss", "gradient"]) -> Outcome:
        """Apply nothing. No loss scale would have helped, so the one from before is restored."""
        self.scale, self.since_growth = self.before_overflow or (self.scale, self.since_growth)
        self.before_overflow = None
        return Outcome(norm, rate, failed)

    def tensors(self) -> dict[str, Tensor]:
        """Both moments of every parameter, on the CPU; none before the first update."""
        return {
            f"{name}.{moment}": tensor.cpu()
            for name in self.parameters
            for moment, tensor in zip(MOMENTS, self.moments.get(name, ()), strict=False)
        }

    def counters(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the moments."""
        return {"update": self.update, "scale": self.scale, "since_growth": self.since_growth}

    def load(
        self, tensors: Mapping[str, Tensor], counters: Any, where: object = "this checkpoint"
    ) -> None:
        """Restore what `tensors` and `counters` returned. where: its folder, for a refusal.

        Raises DataError for anything that does not fit this run.
        """
        own = {f"{n}.{m}": p.shape for n, p in self.parameters.items() for m in MOMENTS}
        counters = counters if isinstance(counters, dict) else {}
        update, scale, growth = (counters.get(name) for name in self.counters())
        wanted = own if update else {}  # there are no moments before the first update
        if {name: tensor.shape for name, tensor in tensors.items()} != wanted or not (
            self._can_reach(update, scale, growth) and all(map(finite_all, tensors.values()))
        ):
            raise DataError(
                f"The optimizer's state in {where} is not this run's, so the run cannot go on from "
                "there; move that folder away and give the same command again."
            )
        self.update, self.scale, self.since_growth = update, scale, growth
        self.moved, self.moments = update > 0, {}
        for name, parameter in self.parameters.items():
            if f"{name}.exp_avg" in tensors:
                of_this = (tensors[f"{name}.{moment}"] for moment in MOMENTS)
                self.moments[name] = [tensor.to(parameter.device) for tensor in of_this]

    def _can_reach(self, update: Any, scale: Any, growth: Any) -> bool:
        """Whether `step` can have left these counters, of any type, behind."""
        if not (type(update) is type(growth) is int and type(scale) is float):
            return False
        if self.config.dtype != "float16":  # the scale stays 1, and nothing resets the count
            return scale == 1 and growth == update and 0 <= update <= self.total
        power = 1 <= scale <= max(self.scale, LARGEST_SCALE) and math.frexp(scale)[0] == 0.5
        return power and 0 <= growth <= update <= self.total and growth < GROWTH_INTERVAL
