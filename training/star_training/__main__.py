"""Makes `python -m star_training` the same as the command `star-zoo`."""

import sys

from .cli.main import main

sys.exit(main())
