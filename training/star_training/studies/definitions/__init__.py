"""The studies: one file each, and tables and claims that several need; imported by `star_training.studies`."""
