"""Model names: their resolution, and the lineage of a continued run."""
