"""`python -m sparse_sae`."""

import sys

from .cli import main

sys.exit(main())
