"""How messages name the arguments of a training: as the command line and as Python take them. It imports nothing."""

RESUME = "resume the run (--resume, resume=True)"
ANOTHER_FOLDER = "another folder (--out, out=...)"
