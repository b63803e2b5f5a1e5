"""``python -m echokernel``"""

import sys

from echokernel.cli import main

if __name__ == "__main__":
    sys.exit(main())
