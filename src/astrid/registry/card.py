"""The card of a registered version: what it is, who it is for, what it learnt from, what it reached, where it fails, where it is from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from astrid.registry.card_facts import Training, limits, slices, weakest
from astrid.registry.gates import TIMED, Built, Gate
from astrid.registry.lineage import RAW, Step
from astrid.registry.markdown import ABSENT, difference, estimate, interval, listed, number, table

DESCRIPTION_CHARACTERS = 5000  # of a version's description in every store that MLflow has

_METRICS = {
    "aucpr": "AUCPR",
    "positive_fraction": "AUCPR of a random ranking",
    "roc_auc": "area under the ROC curve",
    "recall": "recall",
    "fnr": "false-negative rate (real ones missed)",
    "precision": "precision",
    "fpr": "false-positive rate (bogus ones kept)",
    "fnr_at_fpr_1pct": "real ones missed where 1 % of the bogus ones are kept",
    "ece": "expected calibration error",
    "brier": "Brier score",
}
_STRATEGIES = {
    "temporal": "in time: every test exposure is later than the cut, every training exposure earlier",
    "cross_instrument": "by instrument: the detectors of the test part take no part in training",
    "cross_survey": "by survey: the surveys of the test part take no part in training",
    "random_grouped": "at random, in whole groups",
    "training_only": "with nothing held out",
}
_AUDITED = {"cell": "sky cell", "copy": "turned or shifted copy", "near": "near copy"}  # what the audit's names mean
_CAPTIONS = {
    "gallery_missed.png": "Real test detections that it misses",
    "gallery_false_alarms.png": "Bogus test detections that it takes for real",
    "losses_by_snr.png": "Recall and AUCPR that the integer models lose, by S/N",
}
_FAILURES = ("gallery_missed.png", "gallery_false_alarms.png")
_LOSSES = "losses_by_snr.png"


@dataclass(frozen=True, eq=False)
class CardInputs:
    """What a card is made of: the contents of model.json and of the reports, and where the model comes from."""

    manifest: Mapping[str, Any]
    gates: Sequence[Gate]
    digests: Mapping[str, str]
    steps: Sequence[Step]  # the products on the way back to the raw files
    built: Built
    training: Training
    evaluation: Mapping[str, Any]  # reports/evaluate.json
    point: Mapping[str, Any]  # models/evaluate/operating_point.json
    split: Mapping[str, Any]  # reports/split.json
    export: Mapping[str, Any]  # reports/export.json
    slices: pd.DataFrame  # reports/plots/slices.csv
    pictures: Sequence[str]  # files under card/
    versions: Mapping[str, str]  # of packages


def registry_card(inputs: CardInputs) -> str:
    """The whole card, plain Markdown with its pictures under `card/`."""
    parts = [
        _head(inputs),
        "## Intended use\n" + _use(inputs),
        "## Training data\n" + _data(inputs),
        "## Split\n" + _split(inputs.split),
        "## How good it is\n" + _metrics(inputs),
        "## Threshold and calibration\n" + _threshold(inputs),
        "## Where it is weakest\n" + _slices(inputs.slices),
        "## Targets\n" + _targets(inputs),
        "## What it gets wrong\n" + (_pictures(inputs.pictures, _FAILURES) or "No picture was made."),
        "## Limits\n" + "\n".join(f"- {line}" for line in _limits(inputs)),
        "## Gates of promotion\n" + _gates(inputs.gates),
        "## Lineage\n" + _lineage(inputs),
    ]
    return "\n\n".join(parts) + "\n"


def short_card(inputs: CardInputs) -> str:
    """The card as the registry's description: what it is, metrics, gates and lineage, within what every store keeps."""
    parts = [
        _head(inputs),
        "The whole card is `card.md` beside the model, with its pictures in `card/`.",
        "## How good it is\n" + _metrics(inputs),
        "## Gates of promotion\n" + _gates(inputs.gates),
        "## Lineage\n" + _lineage(inputs),
    ]
    text = "\n\n".join(parts)
    return text if len(text) <= DESCRIPTION_CHARACTERS else text[: DESCRIPTION_CHARACTERS - 4] + "\n..."


def _head(inputs: CardInputs) -> str:
    manifest, training = inputs.manifest, inputs.training
    size, values = manifest["stamp_size"], inputs.evaluation
    learnt = training.parts[training.parts["part"] == "train"]
    rows = int(learnt["real"].sum() + learnt["bogus"].sum())
    kind = {True: "simulated exposures", False: "real exposures with simulated sources" if training.injected else "exposures"}
    text = (
        f"`{manifest['name']}` looks at three stamps of {size} x {size} pixels, {listed(manifest['channel_order'])}, of one detection in a "
        f"difference image, and gives the probability that it is an astrophysical source (transient, variable or moving) and no artefact "
        f"of detector or subtraction. It learnt from {rows:,} labelled detections in {kind[training.simulated]} of "
        f"{listed(training.surveys())}. On {_count(values, 'rows')} test detections it reaches an AUCPR of "
        f"{estimate(values, 'test.aucpr')}; a random ranking would have {number(values.get('test.positive_fraction'))}."
    )
    warning = "**Simulated data only.** Every number on this page comes from simulated images and says little about a real sky."
    return f"# {manifest['name']} {manifest['version']}\n\n{text}" + (f"\n\n{warning}" if training.simulated else "")


def _count(values: Mapping[str, Any], name: str) -> str:
    found = values.get(f"test.{name}")
    return ABSENT if found is None else f"{int(found):,}"


def _use(inputs: CardInputs) -> str:
    manifest = inputs.manifest
    size = manifest["stamp_size"]
    lines = [
        "- **For**: ranking the detections of a difference-imaging survey, so that people and follow-up see the likely sources first.",
        "- **Not for**: telling types of transients apart; announcing a discovery that nobody has looked at; surveys on which it was not "
        "measured first; measuring rates without an efficiency from injected sources.",
        f"- **In**: float32 (n, 3, {size}, {size}), {', '.join(manifest['channel_order'])}, normalised by `{manifest['normalization']}`; "
        f"{manifest['sign_convention']}. `astrid score` and MLflow's pyfunc take raw stamps and do this themselves.",
        f"- **Out**: probability of `{manifest['classes'][-1]}`, calibrated by `{manifest['calibration']['method']}`; "
        f"real at or above {manifest['threshold']:.4f}.",
    ]
    return "\n".join(lines)


def _data(inputs: CardInputs) -> str:
    training = inputs.training
    names = [column for column in training.parts.columns if column != "part"]
    rows = [(str(line["part"]), *(f"{int(line[name]):,}" for name in names)) for line in training.parts.to_dict("records")]
    sources = listed([f"{name} ({count:,})" for name, count in sorted(training.label_sources.items())])
    text = [f"Labels by source: {sources}.", table(["part", *names], rows), _surveys(training)]
    doubt = inputs.split.get("doubt", {})
    if "wrong_labels" in doubt:
        share, suspects = 100 * float(doubt["wrong_labels"]), int(doubt["suspects"])
        text.append(f"By confident learning {share:.1f} % of the labels look wrong; {suspects:,} suspects stand in `reports/data/`.")
    return "\n\n".join(text)


def _surveys(training: Training) -> str:
    frame = training.by_survey
    rows = [(str(line["survey"]), *(f"{int(line[part]):,}" for part in frame.columns[1:])) for line in frame.to_dict("records")]
    return "Labelled detections by survey:\n\n" + table(list(frame.columns), rows)


def _split(split: Mapping[str, Any]) -> str:
    strategy = str(split.get("strategy", "unknown"))
    leaks = split.get("audit", {}).get("leaks")
    found = "The split was not audited."
    if isinstance(leaks, Mapping):
        total = sum(int(count) for count in leaks.values())
        looked = listed(sorted(_AUDITED.get(str(name), str(name)) for name in leaks))
        told = "Nothing" if not total else listed([f"{count} ({name})" for name, count in sorted(leaks.items()) if count])
        found = f"The audit looked for groups on both sides of the split, by {looked}. Found: **{told}**."
    groups = {name: int(count) for name, count in split.get("groups", {}).items()}
    held = f" Whole groups in a part: {listed([f'{name} {groups[name]}' for name in groups])}." if groups else ""
    return f"`{strategy}`: cut {_STRATEGIES.get(strategy, 'as recorded')}.{held} {found}"


def _metrics(inputs: CardInputs) -> str:
    values = inputs.evaluation
    rows = [
        (label, estimate(values, f"test.{name}"), estimate(values, f"baseline.{name}"))
        for name, label in _METRICS.items()
        if values.get(f"test.{name}") is not None
    ]
    if not rows:
        return "Nothing recorded."
    prevalence = inputs.point.get("stream_prevalence")
    if prevalence is not None:
        name = f"precision in a stream with {100 * prevalence:g} % real ones"
        ours, forest = (estimate(values, f"{part}.precision_at_prevalence") for part in ("test", "baseline"))
        rows.append((name, ours, forest))
    coverage = inputs.point.get("interval")
    told = f" Intervals hold {100 * coverage:g} %, by bootstrap over events." if coverage else ""
    gain = interval(values.get("test.aucpr_gain_low"), values.get("test.aucpr_gain_high"))
    if gain:
        told += f" AUCPR over the random forest on the same rows: {values['test.aucpr_gain']:+.3f} ({gain})."
    return f"On the test part, at the threshold.{told}\n\n" + table(["metric", "network", "random forest on features"], rows)


def _threshold(inputs: CardInputs) -> str:
    calibration = {name: value for name, value in inputs.manifest["calibration"].items() if name != "method"}
    numbers = ", ".join(f"{name} {number(value, 4)}" for name, value in sorted(calibration.items()) if isinstance(value, float))
    values = inputs.evaluation
    text = [
        f"Threshold {inputs.manifest['threshold']:.4f} on the calibrated probability; calibration by "
        f"`{inputs.manifest['calibration']['method']}`{f' ({numbers})' if numbers else ''}. Both were chosen on validation alone.",
        str(inputs.point.get("choice", {}).get("statement", "")),
        f"On test {_count(values, 'false_negative')} real ones fall below it and {_count(values, 'false_positive')} bogus ones pass."
        if values.get("test.false_negative") is not None
        else "",
    ]
    return " ".join(part for part in text if part)


def _slices(frame: pd.DataFrame) -> str:
    found = slices(frame)
    if not found:
        return "Nothing recorded."
    tables = [f"### By {part.name}\n" + table(part.head, part.rows) for part in found]
    worst = weakest(frame)
    lead = f"The weakest groups with rows enough to tell: {listed(worst)}. Tables begin with the worst." if worst else ""
    return "\n\n".join([lead, *tables] if lead else tables)


def _targets(inputs: CardInputs) -> str:
    """What each target costs against the network, and its losses by S/N."""
    entries = inputs.manifest.get("artifacts", {})
    ratios = {str(numbers.get("file")): numbers.get("latency_ratio", {}) for numbers in inputs.export.get("targets", {}).values()}
    sizes = sorted({size for ratio in ratios.values() for size in ratio}, key=lambda size: int(size.rpartition("_")[2]))
    head = ["file", "target", "MB", "AUCPR lost", "recall lost", "largest difference of probability", "decisions changed"]
    head += [f"time / float ({size.replace('_', ' ')})" for size in sizes]
    rows = []
    for name, entry in sorted(entries.items(), key=lambda item: (item[1]["target"], len(item[0]), item[0])):
        measured, ratio = entry.get("parity", {}), ratios.get(name, {})
        losses = [estimate(measured, key, difference) for key in ("aucpr_loss", "recall_loss")]
        cells = [f"`{name}`", entry["target"], f"{entry['bytes'] / 1e6:.2f}", *losses, number(measured.get("largest_difference"))]
        times = [number(ratio.get(size), 2) if entry["target"] != "onnx" else "1" for size in sizes]
        rows.append((*cells, number(measured.get("decisions_changed")), *times))
    left = [f"- {target} was left out: {why}" for target, why in sorted(inputs.export.get("left_out", {}).items())]
    lead = "Losses are the float network's number minus the artifact's on the same test rows; below zero the artifact is better."
    parts = [lead, table(head, rows), "\n".join(left), _by_snr(entries), _pictures(inputs.pictures, (_LOSSES,))]
    return "\n\n".join(part for part in parts if part)


def _by_snr(entries: Mapping[str, Any]) -> str:
    """One table for all integer targets: what each loses in every bin of S/N."""
    chosen: dict[str, dict[str, Any]] = {}
    for _, entry in sorted(entries.items(), key=lambda item: (len(item[0]), item[0])):
        if entry["target"] != "onnx" and entry.get("parity", {}).get("by_snr"):
            chosen.setdefault(entry["target"], {line["snr"]: line for line in entry["parity"]["by_snr"]})
    if not chosen:
        return ""
    first = next(iter(chosen.values()))
    head = ["S/N", "rows", "real", *(f"{target}: {what}" for target in chosen for what in ("AUCPR lost", "recall lost"))]
    rows = []
    for name, line in first.items():
        found = [by_snr.get(name, {}) for by_snr in chosen.values()]
        losses = [difference(one.get(key)) for one in found for key in ("aucpr_loss", "recall_loss")]
        rows.append((name, str(line["rows"]), str(line["real"]), *losses))
    return "### By S/N\n" + table(head, rows)


def _pictures(given: Sequence[str], names: Sequence[str]) -> str:
    """Each with its place in words too, for a page that shows Markdown without its pictures."""
    return "\n\n".join(f"{_CAPTIONS[name]} (`card/{name}`):\n\n![{_CAPTIONS[name]}](card/{name})" for name in names if name in given)


def _limits(inputs: CardInputs) -> list[str]:
    return limits(inputs.manifest, inputs.training, inputs.evaluation, inputs.slices, inputs.point.get("stream_prevalence"))


def _gates(gates: Sequence[Gate]) -> str:
    """The gates; what was timed is not the same twice, so that only its limit is told."""
    rows = []
    for gate in gates:
        timed = gate.name == TIMED
        told = f"at most {gate.limit:g} milliseconds a triplet." if timed else gate.sentence
        numbers = (ABSENT if timed else f"{gate.measured:.4g}", "" if math.isnan(gate.limit) else f"{gate.limit:.4g}")
        rows.append(
            (gate.name, *(ABSENT if cell in ("nan", "") else cell for cell in numbers), "passed" if gate.passed else "**refused**", told)
        )
    head, _, *body = table(["gate", "measured", "limit", "verdict", "in words"], rows).split("\n")
    return "\n".join([head, "|---|---:|---:|---|---|", *body])


def _lineage(inputs: CardInputs) -> str:
    built = inputs.built
    state = "with changes that are in no commit" if built.dirty else "as committed"
    code = f"Code: commit `{built.commit}`, {state}." if built.commit else "Code: in no repository."
    lines = [code, "", *(f"- {name}: `{value}`" for name, value in sorted(inputs.digests.items()) if name != "commit")]
    if inputs.steps:
        rows = [(f"`{step.path}`", f"`{step.stage}`", f"`{step.digest}`", str(step.files or 1)) for step in inputs.steps]
        others = " It names other products than these (see the gate pipeline): this is the way back of its own." if built.lock else ""
        lines += ["", f"The way back, by dvc.lock.{others}", "", table(["product", "stage", "MD5", "files"], rows)]
    raw = next((step for step in inputs.steps if step.path == RAW), None)
    if raw is not None:
        again = "; `dvc repro acquire` renders the same bytes again, since they are simulated" if inputs.training.simulated else ""
        commit = f"`git checkout {built.commit[:12]}` and " if built.commit else ""
        lines += [
            "",
            f"To get the {raw.files} raw files back: {commit}`dvc checkout {RAW}` (from a remote: `dvc pull {RAW}`){again}. "
            f"The MD5 of each stands in `evidence/lineage.json` beside the model, that of all in the table: `{raw.digest}`.",
        ]
    if inputs.versions:
        lines += ["", f"Made with {', '.join(f'{name} {version}' for name, version in inputs.versions.items())}."]
    return "\n".join(lines)
