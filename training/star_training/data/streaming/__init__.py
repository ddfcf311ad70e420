"""Images that can only be read from front to back: shards, their order, and the loader over them."""
