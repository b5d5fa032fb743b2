"""How a token is decoded. The step of models/step.py does it, on a GPU captured as a CUDA graph.
Where a hook steers a layer or looks at it, the decoder itself does it.

Without a graph Python starts every kernel of every layer for every token, which takes several times
as long as the kernels of a small model. A graph starts them all at once. It is captured anew for
every batch, since it belongs to the batch's rows, its cache and the adapter as it is then.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minihmx.engine.memory import Limit
from minihmx.errors import out_of_memory
from minihmx.models.context import KVCache
from minihmx.models.decoder import Decoder
from minihmx.models.joined import on_cpu
from minihmx.models.step import Step

WARM_UP = 2  # steps in front of a capture, in which cuBLAS and the kernels make what they need once
CAPTURING_STEPS = 32  # of decoding; a capture takes as long as a few steps without a graph
NO_GRAPHS = "decoding without CUDA graphs, which takes longer and gives the same: {}"


def next_states(
    decoder: Decoder, cache: KVCache, limit: Limit, steps: int, static: bool
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return a function that gives the next hidden states [B, hidden] of every row of a cache, from
    tokens [B], their places [B], and 1 + the largest place.

    limit, steps: as in StaticDecoding. static: whether shapes are fixed (`decodes_statically`).
    """
    if static:
        return StaticDecoding(decoder, cache, limit, steps)
    if not hooked(decoder):
        return Step(decoder, cache, on_cpu)
    return lambda token, where, keys: decoder(token[:, None], where[:, None], cache, keys)[:, 0]


def decodes_statically(decoder: Decoder) -> bool:
    """Whether a decoder's tokens are decoded in fixed shapes.

    A CPU starts its kernels at once, and does not look at keys that are not there yet.
    """
    return decoder.device.type != "cpu" and not hooked(decoder)


def hooked(decoder: Decoder) -> bool:
    """Whether a hook steers a layer or looks at it. Such a layer has to be called, and the step of
    models/step.py calls no layer."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in decoder.modules())


class StaticDecoding:
    """The next hidden states of every row of a cache, at places that a tensor says.

    steps: how many there will be at most. On a GPU a graph is captured at the first call. The
    warm-up uses that call's tokens and places, so it writes nothing else into the cache. Where no
    graph can be captured, the step runs without one, and `limit` gets a notice that says so.
    """

    told = False

    def __init__(self, decoder: Decoder, cache: KVCache, limit: Limit, steps: int):
        self.step, self.limit = Step(decoder, cache), limit
        self.graph: torch.cuda.CUDAGraph | None = None
        self.captures = decoder.device.type == "cuda" and steps >= CAPTURING_STEPS

    def __call__(self, token: Tensor, where: Tensor, keys: int = 0) -> Tensor:
        """token [B], where [B] -> normed hidden states [B, hidden], valid until the next call.

        keys: of no use here, since attention looks at the cache's whole capacity.
        """
        if self.captures:
            self.captures = False
            try:
                self._capture(token, where)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                self.graph = None
                self._tell(error)
        if self.graph is None:
            return self.step(token, where)
        self.token.copy_(token)
        self.where.copy_(where)
        self.graph.replay()
        return self.hidden

    def _capture(self, token: Tensor, where: Tensor) -> None:
        self.token, self.where = token.clone(), where.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.step(self.token, self.where)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.hidden = self.step(self.token, self.where)

    def _tell(self, error: RuntimeError) -> None:
        """Once in a process."""
        if not StaticDecoding.told:
            StaticDecoding.told = True
            self.limit.notice = NO_GRAPHS.format(str(error).partition("\n")[0])
