"""Catalogues of events: a user's own table, and catalogues of supernovae compiled into one.

`files` reads tables and tells their formats, `formats` knows what each calls its columns, `vizier` asks VizieR; `values`, `names` and
`types` read cells; `rows` makes typed rows of them, `merge` finds those that are one event, `compile` puts all together.
"""

from __future__ import annotations

from astrid.sky.catalog.files import read_table_file
from astrid.sky.catalog.rows import read_catalog

__all__ = ["read_catalog", "read_table_file"]
