"""A package that knows srch3, and that srch3 does not know."""
