"""An index behind HTTP: answers in JSON, thoughts as they are written, and a page to search with."""
