"""Success rates: episodes on fixed seeds, intervals, paired comparisons, figures."""
