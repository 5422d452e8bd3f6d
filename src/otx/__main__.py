"""`python -m otx`."""

import sys

from otx.cli import main

sys.exit(main())
