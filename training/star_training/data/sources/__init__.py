"""Images with random access: one kind of data set a file, all behind `base.Source`."""
