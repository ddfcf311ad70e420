"""Commands that measure and report: eval, compare, report, bench."""
