"""Every artifact of one network on the same stamps: agreement on real, adversarial and damaged ones, losses on the test rows, time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.export import ExportConfig
from astrid.core.runtime import rng_for
from astrid.datasets.normalize import normalize
from astrid.evaluation.calibration import Calibration
from astrid.evaluation.metrics import average_precision, make_rows
from astrid.export import parity
from astrid.export.compare import CompareSettings, Comparison, TestSet, compare_scores, latency_ratio
from astrid.export.integer import Loss
from astrid.export.parity import Parity, Scorer, Stamps
from astrid.learning.loader import Part, Triplets

Scores = NDArray[np.float32]

_TRIPLETS = "triplets"  # the case of the store's own


@dataclass(frozen=True, eq=False)
class Bench:
    """What artifacts are measured on. `network`: the trained one, normalised triplets -> sigmoid; `batch`: triplets a call."""

    store: Triplets
    network: Scorer
    normalization: str
    calibration: Mapping[str, Any]
    threshold: float  # on the calibrated probability
    batch: int

    def triplets(self, rows: NDArray[np.int64]) -> Iterator[Stamps]:
        """Rows of the store, normalised, a batch at a time."""
        for start in range(0, len(rows), self.batch):
            yield normalize(self.store.stamps(rows[start : start + self.batch]), self.normalization)

    def scores(self, scorers: Mapping[str, Scorer], rows: NDArray[np.int64]) -> dict[str, Scores]:
        """What each scorer gives for the rows, float32 (n,); every row is read and normalised once."""
        parts: dict[str, list[Scores]] = {name: [np.zeros(0, np.float32)] for name in scorers}
        for batch in self.triplets(rows):
            for name, scorer in scorers.items():
                parts[name].append(scorer(batch))
        return {name: np.concatenate(given) for name, given in parts.items()}


@dataclass(frozen=True, eq=False)
class Measured:
    """One artifact's agreement with the network, and what it costs on the test rows."""

    parity: Parity
    comparison: Comparison

    def record(self) -> dict[str, Any]:
        """Plain values: what the manifest says of the artifact, the same in every run."""
        agreement = {"largest_difference": self.parity.largest, "worst_case": self.parity.worst, "stamps": self.parity.stamps}
        return agreement | {name: _plain(value) for name, value in self.comparison.record().items()}


def measure(bench: Bench, test: Part, artifacts: Mapping[str, Scorer], cfg: ExportConfig) -> dict[str, Measured]:
    """Measure artifacts (name -> scorer of normalised triplets) against the network.

    Agreement: on every test row, on rows drawn from the store up to `parity.stamps`, on adversarial stamps and on damaged real ones.
    Losses: on the test rows alone, with the model's calibration and threshold.
    """
    rng = rng_for(cfg.seed, "export", "parity")
    rows, is_test = _rows(len(bench.store.table), test, cfg.parity.stamps, rng)
    scores = bench.scores({"": bench.network, **artifacts}, rows)
    expected = scores.pop("")
    cases = _cases(bench, cfg, rng)
    agreement = parity.compare_all(bench.network, artifacts, cases, batch=cfg.parity.batch)
    table = bench.store.table.iloc[rows[is_test]]
    frozen = TestSet.of(
        table["label"].to_numpy(),
        table["event_id"].to_numpy(),
        table["snr"].to_numpy(dtype=np.float64),
        expected[is_test],
        calibration=bench.calibration,
        threshold=bench.threshold,
    )
    settings = CompareSettings(cfg.compare.replicates, cfg.compare.interval, cfg.compare.snr_edges)
    out = {}
    for name, found in scores.items():
        differences = {**agreement[name].differences, _TRIPLETS: parity.largest_difference(expected, found)}
        comparison = compare_scores(frozen, found[is_test], settings, rng_for(cfg.seed, "export", "compare"))
        out[name] = Measured(Parity(differences, agreement[name].stamps + len(rows)), comparison)
    return out


def losses(bench: Bench, part: Part, scorer: Scorer) -> Loss:
    """What an artifact loses on a part of the split: AUCPR and recall at the threshold, network minus artifact."""
    calibration = Calibration.from_dict(bench.calibration)
    raw = bench.scores({"network": bench.network, "artifact": scorer}, part.rows)
    events = bench.store.table["event_id"].to_numpy()[part.rows]
    ours, theirs = (make_rows(part.labels, calibration.apply(raw[name]), events) for name in ("network", "artifact"))
    kept, left = (int((one.scores[one.labels] >= bench.threshold).sum()) for one in (ours, theirs))
    real = int(ours.labels.sum())
    return Loss(average_precision(ours) - average_precision(theirs), (kept - left) / real, real)


def times(bench: Bench, artifacts: Mapping[str, Scorer], reference: Scorer, cfg: ExportConfig) -> dict[str, dict[str, float]]:
    """How long each artifact takes over what the reference takes, by size of batch ("batch_64"); of this machine and hour."""
    rows = np.arange(max(cfg.compare.latency_batches)) % len(bench.store.table)
    stamps = normalize(bench.store.stamps(rows), bench.normalization)
    return {
        name: {
            f"batch_{size}": latency_ratio(scorer, reference, stamps[:size], repeats=cfg.compare.latency_turns)
            for size in cfg.compare.latency_batches
        }
        for name, scorer in artifacts.items()
    }


def _rows(count: int, test: Part, wanted: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows to compare on, ascending, and which of them are test rows."""
    others = np.setdiff1d(np.arange(count), test.rows)
    drawn = others[parity.draw(len(others), max(wanted - len(test.rows), 0), rng)]
    rows = np.sort(np.concatenate([test.rows, drawn])).astype(np.int64)
    return rows, np.isin(rows, test.rows)


def _cases(bench: Bench, cfg: ExportConfig, rng: np.random.Generator) -> dict[str, Stamps]:
    """Adversarial stamps, damaged real ones, and inputs that no stamp leads to, normalised."""
    raw = parity.hostile_stamps(rng, cfg.parity.hostile)
    if cfg.parity.damaged:
        real = bench.store.stamps(parity.draw(len(bench.store.table), cfg.parity.damaged, rng))
        raw |= parity.damaged_stamps(real, rng)
    return parity.normalized_cases(raw, bench.normalization) | parity.hostile_inputs(rng, cfg.parity.hostile)


def _plain(value: Any) -> Any:
    """NaN, which JSON has not, as None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
