"""Make and check WebDataset shards: pictures to tars, an index and a manifest."""
