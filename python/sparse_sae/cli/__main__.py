"""`python -m sparse_sae.cli`."""

import sys

from . import main

sys.exit(main())
