"""Executing the notebooks, the pages made of them, and the form in which they are committed."""
