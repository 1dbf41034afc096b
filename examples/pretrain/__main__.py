"""`python -m examples.pretrain`."""

from .pretrain import main

if __name__ == "__main__":
    main()
