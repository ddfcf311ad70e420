"""`python -m training` is `star-zoo`."""

import sys

from .cli import main

sys.exit(main())
