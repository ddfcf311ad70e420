"""Makes `python -m star_training` the same as the command `star-zoo`."""

from .cli.main import program

program()
