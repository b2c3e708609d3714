"""Files of an archive: fetched within its manners, resumed by byte range, checked, and placed whole or not at all.

`fetch` brings the chosen files to `<root>/<mission>/<event>/<role>/<filename>`. Nothing else is ever written below `root`: files that
are under way, the memory of verified ones, those kept for later and those set aside lie in a folder beside it (`data/.raw` for
`data/raw`), which is neither in git nor in DVC and may be deleted at any time when nothing runs.
"""

from astrid.sky.download.fetch import Fetched, fetch
from astrid.sky.download.kept import park, work_folder

__all__ = ["Fetched", "fetch", "park", "work_folder"]
