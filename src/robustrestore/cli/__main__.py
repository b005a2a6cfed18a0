"""`python -m robustrestore.cli`, which torchrun needs."""

from . import main

if __name__ == "__main__":
    main()
