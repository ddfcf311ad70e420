"""publish a run or a saved folder to the Hugging Face Hub, with its card"""

import argparse
import tempfile
from pathlib import Path


def declare(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("model", help="a run or a saved folder")
    add("repo_id", metavar="OWNER/NAME", help="the repository, made if it isn't there")
    add("--license", help="of the weights, such as apache-2.0")
    add("--private", action="store_true", help="make the repository a private one")
    add("--tag", help="name of this version, such as v1.0")
    add("--dry-run", action="store_true", help="write the folder that would be uploaded, and stop")
    add("--out", type=Path, help="that folder (beside the model's, NAME-to-publish)")


def run(arguments: argparse.Namespace) -> None:
    """Does what the command says."""
    from ...models.resolve import saved_folder
    from ...publishing.upload import publish, stage

    folder, repo_id, licence = saved_folder(arguments.model), arguments.repo_id, arguments.license
    if arguments.dry_run:
        beside = folder.absolute()
        print(stage(folder, repo_id, arguments.out or beside.with_name(f"{beside.name}-to-publish"), licence))
        return
    with tempfile.TemporaryDirectory() as scratch:
        staged = stage(folder, repo_id, Path(scratch) / "staged", licence)
        pinned = publish(staged, repo_id, private=arguments.private, tag=arguments.tag)
    print(f'published; to pin a tag of the registry to this version: hf_hub_id="{pinned}"')
