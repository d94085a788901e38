"""The data plane: prompt tables, plan, shards, storage, formats, the Ray Data graph, card and report."""

import os

# Ray otherwise starts a new cluster by itself when a thread that outlived a shutdown touches it: a run that was
# interrupted must end, not begin again. Read by Ray at import, so it stands before any module here imports it.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
