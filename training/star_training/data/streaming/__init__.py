"""Images with sequential access only: shards, their order, and the loader over them."""
