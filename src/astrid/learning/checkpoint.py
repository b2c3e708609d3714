"""Checkpoints of a training: one file a training, replaced whole after each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid.core.runtime import atomic_path
from astrid.learning.models import from_bytes, to_bytes

_KEY_DIGITS = 16


def checkpoint_path(folder: Path, key: str) -> Path:
    """Where the training of `key` keeps its checkpoint."""
    return folder / f"{key[:_KEY_DIGITS]}.pt"


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of the training whose inputs, settings and code have the digest `key`."""

    folder: Path
    key: str

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by `state` (plain values and tensors), atomically."""
        with atomic_path(checkpoint_path(self.folder, self.key)) as temporary:
            temporary.write_bytes(to_bytes({"key": self.key, **state}))

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None where this training has none. Raises `InputError` when the file is broken."""
        path = checkpoint_path(self.folder, self.key)
        if not path.exists():
            return None
        state = from_bytes(path.read_bytes(), source=str(path))
        return state if state.get("key") == self.key else None
