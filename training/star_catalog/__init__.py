"""Names, files, the local store and tags, without importing torch; star_zoo and star_training build on it."""
