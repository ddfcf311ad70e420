"""Studies: several methods and seeds of one recipe, run and aggregated into tables and figures."""
