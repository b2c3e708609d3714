"""The shape of the configuration: one module a group, one frozen dataclass a section, composed in `Config`.

The schema imports nothing but pydantic, so every room may take a section as an argument; only `config.compose`, the stages
and the sweep know Hydra.
"""

from __future__ import annotations

from astrid.config.schema._base import Count, Seed, section
from astrid.config.schema.candidates import CandidatesConfig
from astrid.config.schema.dataset import DatasetConfig
from astrid.config.schema.evaluate import EvaluateConfig
from astrid.config.schema.export import ExportConfig
from astrid.config.schema.imaging import ImagingConfig
from astrid.config.schema.model import ModelConfig
from astrid.config.schema.registry import RegistryConfig
from astrid.config.schema.simulate import SimulateConfig
from astrid.config.schema.split import SplitConfig
from astrid.config.schema.survey import SurveyConfig
from astrid.config.schema.train import TrainConfig

__all__ = [
    "CandidatesConfig",
    "ComputeConfig",
    "Config",
    "DatasetConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ImagingConfig",
    "ModelConfig",
    "RegistryConfig",
    "SimulateConfig",
    "SplitConfig",
    "SurveyConfig",
    "TrainConfig",
]


@section
class ComputeConfig:
    """Where work runs; never part of a product's digest, since it changes no result."""

    workers: Count  # processes; 0 = every core


@section
class Config:
    """The whole configuration, as composed from conf/ and written to params.yaml."""

    seed: Seed
    survey: SurveyConfig
    simulate: SimulateConfig
    imaging: ImagingConfig
    candidates: CandidatesConfig
    dataset: DatasetConfig
    split: SplitConfig
    model: ModelConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    export: ExportConfig
    registry: RegistryConfig
    compute: ComputeConfig
