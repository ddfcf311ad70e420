"""Images with random access: one file per kind of data set, all with the interface `base.Source`."""
