"""Scores -> probabilities, fitted on validation and applied wherever a score is shown.

Only numpy is imported here, so that serving may use `apply_calibration` alone; the isotonic fit imports scikit-learn when asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astrid.core.errors import DataSetError

Floats = NDArray[np.float64]

# A float32 sigmoid saturates at 0 and 1; the logit is taken this far inside (float32's own spacing below 1).
_CLIP = 1e-7
_NEWTON_STEPS = 100
_CONVERGED = 1e-12
_METHODS = ("platt", "isotonic", "none")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A monotone map of raw scores. platt: sigmoid(slope * logit(p) + bias); isotonic: linear between knots; none: p itself."""

    method: Literal["platt", "isotonic", "none"]
    slope: float = 1.0
    bias: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def apply(self, scores: ArrayLike) -> Floats:
        """Raw scores in [0, 1], any shape -> probabilities, float64 of the same shape; NaN stays NaN."""
        values = np.asarray(scores, dtype=np.float64)
        if self.method == "platt":
            return _sigmoid(self.slope * logit(values) + self.bias)
        if self.method == "isotonic":
            return np.asarray(np.interp(values, self.x, self.y), dtype=np.float64)
        return values.copy()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: method and the parameters that it needs."""
        if self.method == "platt":
            return {"method": "platt", "slope": self.slope, "bias": self.bias}
        if self.method == "isotonic":
            return {"method": "isotonic", "x": list(self.x), "y": list(self.y)}
        return {"method": "none"}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`. Raises `DataSetError` for an unknown method or missing parameters."""
        method = content.get("method")
        needed = {"platt": ("slope", "bias"), "isotonic": ("x", "y"), "none": ()}.get(str(method))
        if needed is None:
            raise DataSetError(f"Calibration method {method!r} is not one of {', '.join(_METHODS)}; evaluate the model anew.")
        missing = [name for name in needed if name not in content]
        if missing:
            raise DataSetError(f"The {method} calibration lacks {missing[0]!r}; evaluate the model anew.")
        if method == "platt":
            return cls("platt", slope=float(content["slope"]), bias=float(content["bias"]))
        if method == "isotonic":
            x, y = tuple(map(float, content["x"])), tuple(map(float, content["y"]))
            if len(x) != len(y) or not x:
                raise DataSetError(f"The isotonic calibration has {len(x)} positions and {len(y)} values; evaluate the model anew.")
            return cls("isotonic", x=x, y=y)
        return cls("none")


def apply_calibration(content: Mapping[str, Any], scores: ArrayLike) -> Floats:
    """Apply the calibration described by `content` (see `Calibration.to_dict`) to raw scores of any shape."""
    return Calibration.from_dict(content).apply(scores)


def fit_calibration(scores: ArrayLike, labels: ArrayLike, method: Literal["platt", "isotonic", "none"]) -> Calibration:
    """Fit a calibration on validation. `scores`: raw, in [0, 1], (n,); `labels`: 0 or 1, (n,).

    Raises `DataSetError` unless both classes are present.
    """
    raw, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if raw.shape != truth.shape or raw.ndim != 1:
        raise DataSetError(f"{raw.shape} scores cannot be calibrated with {truth.shape} labels; give one label a score.")
    if method == "none":
        return Calibration("none")
    if not truth.any() or truth.all():
        raise DataSetError(
            f"Validation holds {int(truth.sum())} real and {int((~truth).sum())} bogus rows; calibration needs both, change the split."
        )
    return _platt(raw, truth) if method == "platt" else _isotonic(raw, truth)


def logit(scores: ArrayLike) -> Floats:
    """log(p / (1 - p)) of scores kept 1e-7 inside (0, 1); NaN stays NaN."""
    inside = np.clip(np.asarray(scores, dtype=np.float64), _CLIP, 1 - _CLIP)
    return np.asarray(np.log(inside) - np.log1p(-inside), dtype=np.float64)


def _sigmoid(values: Floats) -> Floats:
    # Written with the exponential of a negative number alone, so that nothing overflows.
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


def _platt(raw: Floats, truth: NDArray[np.bool_]) -> Calibration:
    """Platt (1999) on the logit with his smoothed targets, by damped Newton steps (Lin, Lin & Weng 2007).

    The targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) keep the slope finite when validation is perfectly separated.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logit(raw), np.ones(raw.size)], axis=1)
    parameters = np.array([1.0, 0.0])
    loss = _cross_entropy(design @ parameters, target)
    for _ in range(_NEWTON_STEPS):
        probability = _sigmoid(design @ parameters)
        gradient = design.T @ (probability - target)
        curvature = design.T @ (design * (probability * (1 - probability))[:, None]) + _CONVERGED * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > _CONVERGED and _cross_entropy(design @ (parameters - size * step), target) > loss:
            size /= 2
        candidate = parameters - size * step
        after = _cross_entropy(design @ candidate, target)
        if not after < loss - _CONVERGED * (1 + loss):
            break
        parameters, loss = candidate, after
    if parameters[0] <= 0:
        raise DataSetError(
            f"The best slope on validation is {parameters[0]:.3g}: higher scores mean bogus there; "
            "train the model anew or set evaluate.calibration to none."
        )
    return Calibration("platt", slope=float(parameters[0]), bias=float(parameters[1]))


def _cross_entropy(logits: Floats, target: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - target * logits))


def _isotonic(raw: Floats, truth: NDArray[np.bool_]) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(raw, truth.astype(np.float64))
    return Calibration("isotonic", x=tuple(map(float, model.X_thresholds_)), y=tuple(map(float, model.y_thresholds_)))
