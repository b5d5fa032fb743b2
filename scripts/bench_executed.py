"""The products that a step really executes, by stage, as torch is asked for them.

The floor counts what is left; this counts what is done, whatever the code that does it, so that the
two can be compared, and the step's own products be timed without the step.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from bench_floor import Product, Work
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_ATTENTION = "scaled_dot_product"


class Executed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every product counts for the stage that `stage` names then.

    work: by stage. Attention is counted as if every query saw every key, unless it is causal.
    """

    def __init__(self, stage: Callable[[], str]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.stage, self.work = stage, defaultdict[str, Work](Work)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode a linear arrives whole, and is taken apart here as elsewhere.
        if func._can_decompose() and func.namespace == "aten":
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        result = func(*args, **kwargs)
        here = self.work[self.stage()]
        here.products += products(func, args, result)
        here.attention += attended(func, args, kwargs)
        return result


def products(func: Any, args: Sequence[Any], result: Any) -> Counter[Product]:
    """The products of one call of an operator, none for most of them."""
    if func in (_ATEN.mm.default, _ATEN.addmm.default):
        a, b = args[-2:] if func is _ATEN.mm.default else args[1:3]
        return Counter({Product(b.shape[1], a.shape[1], a.shape[0]): 1})
    if func.namespace == "mkldnn" and "_linear_pointwise" in str(func):
        inside, out = args[0].shape[-1], result.shape[-1]
        return Counter({Product(out, inside, math.prod(args[0].shape[:-1])): 1})
    return Counter()


def attended(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Multiplications and additions of a call of fused attention, or of a product in attention by
    products, which no weight is in; of a backward, twice as many (the scores that it makes anew are
    left out)."""
    if func is _ATEN.bmm.default:
        (batch, rows, inside), out = args[0].shape, args[1].shape[2]
        return 2 * int(batch * rows * inside * out)
    name = str(func)
    if _ATTENTION not in name:
        return 0
    back = "backward" in name
    q, k = args[1:3] if back else args[:2]
    batch, heads, queries, size = map(int, q.shape)
    keys = int(k.shape[2])
    words = [a for a in args if isinstance(a, bool)] + [kwargs.get("is_causal", False)]
    pairs = queries * (queries + 1) // 2 if any(words) else queries * keys
    return 4 * batch * heads * size * pairs * (2 if back else 1)
