"""Which figures the report holds, with their titles and captions: section by section, each a list of (picture, figure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from astrid.config.schema.evaluate import EvaluateConfig
from astrid.evaluation import figures
from astrid.evaluation.gallery import Example, gallery
from astrid.evaluation.judge import Verdict
from astrid.evaluation.report import Picture
from astrid.evaluation.style import BOGUS, REAL

Drawn = list[tuple[Picture, Figure]]
Indices = NDArray[np.int64]
StampReader = Callable[[Indices], NDArray[np.float32]]

_BARS = ("survey", "filter", "sign", "S/N", "host offset (DLR)")


def _picture(section: str, name: str, title: str, caption: str, shape: str = "") -> Picture:
    return Picture(section, f"figures/{name}.png", title, caption, shape)


@dataclass(frozen=True, eq=False)
class Album:
    """The figures of one evaluation."""

    cfg: EvaluateConfig
    network: Verdict
    forest: Verdict
    frames: Mapping[str, pd.DataFrame]

    def ranking(self) -> Drawn:
        """Precision-recall, ROC and the scores of both classes."""
        network, forest = self.network, self.forest
        operating = (network.metrics["recall"].value, network.metrics["precision"].value)
        fraction = network.metrics["positive_fraction"].value
        aucpr, other = network.metrics["aucpr"], forest.metrics["aucpr"]
        curve = figures.precision_recall(
            self.frames["precision_recall"], self.frames["precision_recall_baseline"], aucpr, other, fraction, operating
        )
        floor = 1 / max(1, int((~network.test.labels).sum()))
        roc = figures.roc(self.frames["roc"], self.frames["roc_baseline"], self.cfg.false_positive_rates, floor)
        band = f"The band holds {100 * self.cfg.interval:g} % of the bootstrap over events; the dashed line is a random forest on features."
        zero = f"A rate of zero is drawn at the left edge: {1 / floor:,.0f} bogus detections resolve no rate below {floor:.2g}."
        scores = "Both classes should crowd their own end; the axis of counts is logarithmic."
        return [
            (_picture("ranking", "precision_recall", "Precision and recall", band), curve),
            (_picture("ranking", "roc", "Recall against false-positive rate", zero), roc),
            (
                _picture("ranking", "scores", "Scores of both classes", scores),
                figures.score_histogram(network.test, network.threshold.value),
            ),
        ]

    def operating(self) -> Drawn:
        """Threshold curves and the confusion matrix."""
        value = self.network.threshold.value
        curves = figures.threshold_curves(self.frames["thresholds"], value, self.cfg.stream_prevalence)
        matrix = figures.confusion_matrix(self.network.confusion, value)
        about = "On the test part, over every threshold; the line is the threshold that validation chose for its recall."
        counts = "Test detections; the percentages are shares of the true class."
        return [
            (_picture("operating", "thresholds", "What a threshold costs", about), curves),
            (_picture("operating", "confusion", "Confusion matrix", counts), matrix),
        ]

    def probabilities(self) -> Drawn:
        """The reliability diagram."""
        figure = figures.reliability(self.frames["reliability"], self.frames["reliability_raw"], self.network.metrics["ece"])
        caption = f"Test detections in {self.cfg.reliability_bins} bins; on the dotted line a probability means what it says."
        return [(_picture("ranking", "reliability", "Reliability", caption), figure)]

    def slices(self) -> Drawn:
        """Recall against S/N and bars by slice."""
        frame = self.frames["slices"]
        counts = "The number of test detections stands in brackets; the black line is the interval."
        drawn = [
            (
                _picture("slices", "recall_by_snr", "Recall against S/N", "Real test detections in bins of S/N, with intervals."),
                figures.recall_by_snr(self.frames["recall_by_snr"], self.cfg.required_recall),
            ),
            (_picture("slices", "slices_aucpr", "AUCPR by slice", counts, "tall"), figures.slice_bars(frame, "aucpr", "AUCPR", _BARS)),
        ]
        for metric, name, title, label in (
            ("fpr", "bogus kind", "False alarms by bogus kind", "False-positive rate at the threshold"),
            ("recall", "transient kind", "Recall by transient kind", "Recall at the threshold"),
        ):
            if (frame["slice"] == name).any():
                figure = figures.slice_bars(frame, metric, label, [name])
                drawn.append((_picture("slices", f"slices_{metric}", title, counts), figure))
        return drawn

    def galleries(self, table: pd.DataFrame, stamps: StampReader) -> Drawn:
        """Test triplets by class and by mistake; `stamps` reads the stamps of rows of `table`."""
        test, most = self.network.test, self.cfg.gallery_examples
        flagged = test.scores >= self.network.threshold.value
        by_score = np.argsort(test.scores, kind="stable")
        missed = [int(index) for index in by_score if test.labels[index] and not flagged[index]][:most]
        alarms = [int(index) for index in by_score[::-1] if not test.labels[index] and flagged[index]][:most]
        chosen = (
            ("real", "Real", one_of_each(table, test.labels, most), "Real detections, every kind in turn."),
            ("bogus", "Bogus", one_of_each(table, ~test.labels, most), "Bogus detections, every kind in turn."),
            ("missed", "Missed", missed, "Real detections below the threshold, the worst first."),
            ("false_alarms", "False alarms", alarms, "Bogus detections at or above the threshold, the most confident first."),
        )
        stretch = (
            " Science and reference share one stretch. The difference is turned so that the source is positive, in red; grey has no data."
        )
        drawn: Drawn = []
        for name, title, indices, caption in chosen:
            if indices:
                examples = self._examples(table, stamps(np.array(indices, dtype=np.int64)), indices)
                drawn.append((_picture("gallery", f"gallery_{name}", title, caption + stretch, "wide"), gallery(examples)))
        return drawn

    def _examples(self, table: pd.DataFrame, stamps: NDArray[np.float32], indices: list[int]) -> list[Example]:
        examples = []
        for triplet, index in zip(stamps, indices, strict=True):
            row, label = table.iloc[index], bool(self.network.test.labels[index])
            turn = "brightened" if row["sign"] > 0 else "faded"
            caption = f"S/N {row['snr']:.1f}, {turn}, {row['survey']} {row['filter']}"
            title = f"{self.network.test.scores[index]:.3f}  {row['kind'] or 'unknown'}".replace("_", " ")
            examples.append(Example(triplet, title, caption, REAL if label else BOGUS))
        return examples

    def training(self, history: pd.DataFrame, best_epoch: int, importances: Mapping[str, float]) -> Drawn:
        """Training history and the forest's importances."""
        learnt = "Training stops when the AUCPR of validation no longer rises; the dashed line is the epoch that was kept."
        leans = "Share of the impurity decrease by feature; the forest sees features of the catalogue, never the pixels."
        names, values = list(importances), np.array(list(importances.values()))
        return [
            (_picture("training", "training", "Training history", learnt), figures.training_history(history, best_epoch)),
            (_picture("training", "importances", "What the random forest leans on", leans), figures.importances(names, values)),
        ]

    def quality(self, pairs: pd.DataFrame) -> Drawn:
        """Alignment and subtraction quality of the pairs that were subtracted; nothing where no column tells of it."""
        done = pairs[pairs["status"] == "ok"]
        panels = figures.quality_panels(done)
        if not panels:
            return []
        caption = f"{len(done):,} of {len(pairs):,} pairs were subtracted. Dashed: the target of 0.1 px, and the width 1 of pure noise."
        picture = _picture("data", "quality", "Alignment and subtraction", caption, "wide")
        return [(picture, figures.quality(done, panels))]


def one_of_each(table: pd.DataFrame, among: NDArray[np.bool_], most: int) -> list[int]:
    """Up to `most` row positions among those allowed, bool (n,), taking the kinds in turn and each kind in the table's order."""
    rows = pd.DataFrame({"index": np.arange(len(table)), "kind": table["kind"].to_numpy()})[among]
    turn = rows.groupby("kind").cumcount()
    ordered = rows.assign(turn=turn).sort_values(["turn", "kind", "index"])
    return [int(index) for index in ordered["index"].head(most)]
