from __future__ import annotations

from support.fixtures import difference_config, difference_values, skies

__all__ = ["difference_config", "difference_values", "skies"]
