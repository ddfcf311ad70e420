"""Commands that measure and report: eval, compare, embed, report, bench."""
