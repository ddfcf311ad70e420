"""publish a run or a saved folder to the Hugging Face Hub, with its card"""

import argparse
import tempfile
from pathlib import Path

from star_catalog.files import user_path
from star_catalog.printing import printable


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("model", help="a run or a saved folder on this machine")
    add("repo_id", metavar="OWNER/NAME", help="the repository; created if it does not exist")
    add("--license", help="licence of the weights, e.g. apache-2.0")
    add("--private", action="store_true", help="create a private repository")
    add("--tag", help="Git tag of this version, e.g. v1.0")
    add("--dry-run", action="store_true", help="write the folder to upload, without uploading it")
    add("--out", type=user_path, help="folder of --dry-run (default: NAME-to-publish beside the model's folder)")


def run(arguments: argparse.Namespace) -> None:
    """Executes the command."""
    from ...models.resolve import saved_folder
    from ...publishing.upload import publish, stage

    folder, repo_id, licence = saved_folder(arguments.model), arguments.repo_id, arguments.license
    if arguments.dry_run:
        beside = folder.absolute()
        out = arguments.out or beside.with_name(f"{beside.name}-to-publish")
        print(printable(str(stage(folder, repo_id, out, licence))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        staged = stage(folder, repo_id, Path(scratch) / "staged", licence)
        pinned = publish(staged, repo_id, private=arguments.private, tag=arguments.tag)
    print(f'published; to pin a registered tag to this version, set hf_hub_id="{pinned}"')
