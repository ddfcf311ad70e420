"""WebDataset shards: tar files in which the members of one sample share a key.

The headers are read once to locate each image; then images are read by offset. With random access, an interrupted run
resumes at exactly the next image, and forked workers share no open file.
"""

from .images import TarImages as TarImages
from .images import expand_braces as expand_braces
from .images import open_tar as open_tar
