"""Files that are whole or not there: written under a temporary name beside the target, then renamed."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to; on success it becomes `path` in one step, on any error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    part.touch(exist_ok=False)  # with the permissions of any new file; mkstemp's 0600 would hide it from its group
    mode = part.stat().st_mode
    try:
        yield part
        part.chmod(mode)  # safetensors puts a 0600 file of its own in this one's place
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave a renamed file without its contents
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk is met while writing to an open file, which has no name
        raise


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left unfinished; for a folder that nobody else writes to now."""
    for pattern in (".*.????????.part", ".tmp??????"):  # those of `replacing`, and safetensors' own beside them
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
