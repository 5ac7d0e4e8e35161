"""One file per statistic; each is fold, merge, finalize and knows no engine."""
