"""The one call of LeRobot's v2.1 to v3.0 converter."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from types import SimpleNamespace

from igrft.errors import IgrftError
from igrft.recordings.quiet import first_line, is_disk_full, lerobot_quietly


def run_converter(root: Path, scratch: Path) -> None:
    """Turn the v2.1 dataset at ``root`` into v3.0, in place; the v2.1 files are removed.

    Args:
        root: a copy made for this; its name must not be needed as ``*_old`` or ``*_v30`` beside it.
        scratch: folder for temporary files, on the same file system.

    Raises:
        IgrftError: the converter failed; its own error is the cause.
    """
    if "'" in str(root.resolve()):
        # LeRobot lists the files to join in a text file without escaping their names.
        raise IgrftError(f"the path {root.resolve()} holds an apostrophe, which LeRobot's converter cannot handle")
    with lerobot_quietly(scratch):
        import tqdm
        from lerobot.scripts import convert_dataset_v21_to_v30 as converter

        bars, converter.tqdm = converter.tqdm, SimpleNamespace(tqdm=functools.partial(tqdm.tqdm, disable=True))
        try:
            converter.convert_dataset(repo_id="igrft/convert", root=root, push_to_hub=False)
        except Exception as error:
            if is_disk_full(error):
                raise
            raise IgrftError(
                f"LeRobot's converter stopped ({type(error).__name__}: {first_line(error)}); "
                "run again with --debug and report what it prints"
            ) from error
        finally:
            converter.tqdm = bars
    old = root.with_name(root.name + "_old")
    if not (root / "meta/episodes").is_dir() or not old.is_dir():
        raise IgrftError(
            "LeRobot's converter finished without a v3.0 dataset; is another version of LeRobot installed?"
        )
    shutil.rmtree(old)
