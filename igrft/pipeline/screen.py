"""A look at every row before any work: are the rows where the episodes' table says, and finite?

Labels go to rows by position. Were the table and the files to disagree, they would land on the wrong
frames, and nothing later would notice.
"""

from __future__ import annotations

import numpy as np

from igrft import columns as c
from igrft.dataset.files import to_numpy
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError

_MUST_BE_FINITE = (c.STATE, c.ACTION)


def screen(dataset: DatasetReader) -> dict[int, str]:
    """Reasons to set episodes aside, by table row: state or action that is not finite.

    Raises:
        IgrftError: a data file holds other rows than the episodes' table says.
    """
    reasons: dict[int, str] = {}
    floats = [n for n in _MUST_BE_FINITE if str(dataset.features.get(n, {}).get("dtype", "")).startswith("float")]
    for relative, rows in dataset.data_files:
        names = [n for n in floats if n in dataset.parquet(relative).schema_arrow.names]
        for taken, table in dataset.iter_file(relative, rows, names=[c.EPISODE_INDEX, *names]):
            lengths = dataset.lengths[taken]
            found = to_numpy(table.column(c.EPISODE_INDEX))
            expected = np.repeat(dataset.episode_indices[taken], lengths)
            if len(found) != len(expected) or (found != expected).any():
                first = int(np.argmax(found != expected)) if len(found) == len(expected) else 0
                raise IgrftError(
                    f"{dataset.root / relative} holds a row of episode {int(found[first])} where the episodes' table "
                    f"says episode {int(expected[first])}; run: igrft validate {dataset.root}"
                )
            starts = np.concatenate([[0], np.cumsum(lengths)])
            for name in names:
                values = to_numpy(table.column(name)).reshape(table.num_rows, -1)
                # A sum is finite if all are (but for an overflow, which is no less worth a look).
                if np.isfinite(values.sum(dtype=np.float64)):
                    continue
                bad = ~np.isfinite(values).all(axis=1)
                for i, row in enumerate(taken.tolist()):
                    where = np.flatnonzero(bad[starts[i] : starts[i + 1]])
                    if len(where) and row not in reasons:
                        index = int(dataset.episode_indices[row])
                        reasons[row] = (
                            f"episode {index}: {name} is not finite at frame {int(where[0])}; mend or drop the episode"
                        )
    return reasons
