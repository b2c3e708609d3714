"""The shape of the configuration: one module a group, one frozen dataclass a section, composed in `Config`.

The schema imports nothing but pydantic, so every room may take a section as an argument; only `config.compose`, the stages
and the sweep know Hydra.
"""

from __future__ import annotations

from astrid.config.schema._base import Count, NonNegative, PositiveCount, Seed, section
from astrid.config.schema.candidates import CandidatesConfig
from astrid.config.schema.dataset import DatasetConfig
from astrid.config.schema.evaluate import EvaluateConfig
from astrid.config.schema.export import ExportConfig
from astrid.config.schema.imaging import ImagingConfig
from astrid.config.schema.injection import InjectionConfig
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
    "DaskConfig",
    "DatasetConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ImagingConfig",
    "InjectionConfig",
    "ModelConfig",
    "RegistryConfig",
    "SimulateConfig",
    "SplitConfig",
    "SurveyConfig",
    "TrainConfig",
]


@section
class DaskConfig:
    """A Dask cluster."""

    scheduler: str  # address, e.g. tcp://host:8786; empty = a cluster of this machine's processes
    threads: PositiveCount  # a worker of the local cluster
    worker_memory_gb: NonNegative  # GB a worker of the local cluster; 0 = an equal share of compute.memory_gb


@section
class ComputeConfig:
    """Where work runs; never part of a product's digest, since it changes no result."""

    workers: Count  # processes; 0 = every core
    memory_gb: NonNegative  # GB, of all that runs at once; 0 = what the machine has
    retries: Count  # further attempts at an item whose worker died
    dask: DaskConfig | None  # null = processes of this machine


@section
class Config:
    """The whole configuration, as composed from conf/ and written to params.yaml."""

    seed: Seed
    survey: SurveyConfig
    simulate: SimulateConfig
    imaging: ImagingConfig
    injection: InjectionConfig
    candidates: CandidatesConfig
    dataset: DatasetConfig
    split: SplitConfig
    model: ModelConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    export: ExportConfig
    registry: RegistryConfig
    compute: ComputeConfig
