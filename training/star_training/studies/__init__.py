"""Studies: methods by seeds around one recipe, run and aggregated into tables and figures."""
