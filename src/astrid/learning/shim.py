"""Make torchvision importable next to a CPU-only torch.

The published torchvision wheel is built for CUDA; next to the CPU build of torch its compiled library does not load and the
import ends at the missing schema of `torchvision::nms`. The zoo and the transforms need none of these operators, so declaring
their schemas is enough. Lightning, torchmetrics and mlflow.pytorch import torchvision too: whoever imports them calls
`ensure_torchvision` first.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

from astrid.core.errors import MissingDependencyError

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@cache
def ensure_torchvision() -> ModuleType:
    """Import torchvision, declaring its missing operator schemas where needed; does nothing more where it works.

    Raises `MissingDependencyError` when torchvision is not installed or cannot be imported for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{error.name} is not installed; run `pip install -e . -c constraints.txt`.") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise MissingDependencyError(f"torchvision cannot be imported ({error}); install the version that fits torch.") from error
    declare_operators()
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        raise MissingDependencyError(f"torchvision does not fit this torch ({error}); install the pair in constraints.txt.") from error


@cache
def declare_operators() -> Any:
    """Declare those schemas that torch does not know yet; the returned library keeps them alive and is kept by the cache."""
    import torch

    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library
