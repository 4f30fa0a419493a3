"""Teacher logits on disk: keys, shards, and what is gathered from them."""
