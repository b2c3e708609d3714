"""The one prediction function: raw triplets in, the network's sigmoid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from astrid.core.errors import DataSetError
from astrid.datasets.normalize import normalize
from astrid.learning.loader import Rows, Triplets

_BATCH = 256  # triplets a call


def predict(model: nn.Module, stamps: NDArray[np.floating], normalization_id: str, batch: int = _BATCH) -> NDArray[np.float32]:
    """Probability of being real before calibration.

    Parameters
    ----------
    model
        A network of `learning.models`.
    stamps
        Floating (n, 3, 63, 63): science, reference, sign * difference, un-normalised; NaN where masked.
    normalization_id
        The one that the network was trained with.
    batch
        Triplets a call; the result does not depend on it beyond rounding.

    Returns
    -------
    float32 (n,) in 0 to 1.
    """
    chunks = (normalize(stamps[start : start + batch], normalization_id) for start in range(0, len(stamps), batch))
    return probabilities(model, chunks)


def predict_rows(model: nn.Module, store: Triplets, rows: Rows, normalization_id: str, batch: int = _BATCH) -> NDArray[np.float32]:
    """The same for rows of a triplet store, read batch by batch: float32 (len(rows),) in the order of `rows`."""
    chunks = (normalize(store.stamps(rows[start : start + batch]), normalization_id) for start in range(0, len(rows), batch))
    return probabilities(model, chunks)


def probabilities(model: nn.Module, normalized: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The sigmoid for batches of normalised triplets, joined: float32 (n,).

    Raises `DataSetError` when the network gives a value that is not finite.
    """
    joined = logits(model, (torch.from_numpy(one) for one in normalized))
    broken = int(np.count_nonzero(~np.isfinite(joined)))
    if broken:
        raise DataSetError(f"the network gives no finite score for {broken} of {len(joined)} triplets; train it again.")
    scores: NDArray[np.float32] = torch.sigmoid(torch.from_numpy(joined)).numpy()
    return scores


def logits(model: nn.Module, batches: Iterable[torch.Tensor]) -> NDArray[np.float32]:
    """Logits for batches of normalised triplets, joined: float32 (n,). The network's mode is left as it was."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            done = list(_forward(model, batches, device))
    finally:
        model.train(training)
    return np.concatenate(done) if done else np.zeros(0, dtype=np.float32)


def _forward(model: nn.Module, batches: Iterable[torch.Tensor], device: torch.device) -> Iterator[NDArray[np.float32]]:
    for batch in batches:
        yield model(batch.to(device).contiguous(memory_format=torch.channels_last)).cpu().numpy()
