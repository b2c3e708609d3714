"""Section `registry`: where a model is registered and what it has to pass to become the champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, Seed, section


@section
class ChampionLimits:
    """The comparison with the champion on the same test rows: differences are (model - champion), intervals over events."""

    aucpr_margin: NonNegative  # the lower end of the AUCPR difference must lie above minus this
    recall_margin: NonNegative  # the same for recall, each model at its own threshold
    better: bool  # true: the lower end of the AUCPR difference must lie above zero
    slice_margin: NonNegative  # AUCPR; a slice refuses when its interval lies wholly below minus this
    slice_rows: PositiveCount  # rows of each class below which a slice is not judged
    faint_snr: Positive  # |S/N| below which a detection is faint (sigma)
    host_dlr: Positive  # a bright host is within this many directional light radii ...
    host_snr: Positive  # ... and the reference stands this high there (sigma)
    replicates: PositiveCount  # draws of the events
    interval: Annotated[float, Field(gt=0, lt=1)]  # coverage


@section
class TargetLimits:
    """What one artifact may weigh and take."""

    megabytes: Positive  # 10^6 bytes
    milliseconds: Positive  # a triplet, on this machine's CPU


@section
class IntegerLimits:
    """The integer artifact against the float one."""

    megabytes: Positive  # 10^6 bytes
    milliseconds: Positive  # a triplet, on this machine's CPU
    aucpr_loss: NonNegative  # on the test rows
    recall_loss: NonNegative  # fraction, at the model's threshold
    calibration_stamps: Count  # that its ranges must have been measured on, at least
    unmapped: Count  # operators that the Edge TPU cannot run, at most


@section
class EdgeLimits:
    """The compiled artifact, from the compiler's log."""

    megabytes: Positive  # 10^6 bytes
    unmapped: Count  # operators left on the CPU, at most
    streamed_megabytes: NonNegative  # weights off the chip, 10^6 bytes, at most


@section
class GateLimits:
    """The limits of the promotion gates."""

    pipeline: bool  # true: only what dvc.lock knows as the product of `dvc repro`
    dirty: bool  # true: uncommitted code may be promoted
    aucpr_floor: Fraction  # test AUCPR, lowest allowed
    recall_floor: Fraction  # test recall at the model's threshold, lowest allowed
    calibration_ece: Fraction  # expected calibration error on test, highest allowed
    calibration_bins: PositiveCount  # equal-width bins of that error
    replay: Positive  # largest |probability of the artifact - probability that evaluation measured| on a test row
    parity: Positive  # largest |difference of probability| between network and artifact, highest allowed
    champion: ChampionLimits
    onnx: TargetLimits
    integer: IntegerLimits
    edgetpu: EdgeLimits


@section
class RegistryConfig:
    """Registration and promotion."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # in the MLflow registry
    fatal: bool  # true: a refused promotion fails the stage; false: it is registered as candidate only
    seed: Seed  # of the bootstrap
    gates: GateLimits
