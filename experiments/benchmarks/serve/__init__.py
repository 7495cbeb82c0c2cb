"""Many clients at once at the search server: does each get its own answer, and does the server last?"""
