"""Further roads over the same helpers: other organs, other layouts, other questions."""
