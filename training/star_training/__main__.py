"""`python -m star_training` is `star-zoo`."""

import sys

from .cli.main import main

sys.exit(main())
