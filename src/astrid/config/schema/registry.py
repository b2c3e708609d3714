"""Section `registry`: where a model is registered and what it has to pass to become the champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from astrid.config.schema._base import Fraction, NonNegative, Positive, section


@section
class GateLimits:
    """The limits of the promotion gates."""

    aucpr_floor: Fraction  # test AUCPR, lowest allowed
    champion_margin: NonNegative  # test AUCPR may lie this far below the champion's on the same test rows
    recall_floor: Fraction  # test recall at the model's threshold, lowest allowed
    calibration_ece: Fraction  # expected calibration error on test, highest allowed
    parity: Positive  # largest |difference of probability| between network and artifact, highest allowed


@section
class RegistryConfig:
    """Registration and promotion."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # in the MLflow registry
    fatal: bool  # true: a refused promotion fails the stage; false: it is registered as candidate only
    gates: GateLimits
