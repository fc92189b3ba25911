"""Cases and cohorts: where the files are, what is wrong with them, how they are split, made and prepared."""
