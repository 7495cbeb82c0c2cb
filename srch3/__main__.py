"""``python -m srch3``."""

from srch3.cli import main

if __name__ == "__main__":
    main()
