"""Where wherry-runc begins: before anything is imported that a second interpreter would have to import again.

What becomes a container's process runs from a file that nobody can write to (CVE-2019-5736).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: The commands of which a copy of this process enters a container.
_ENTERING = ("create", "run", "exec")

_AGAIN = "from wherry.startup import hurry; hurry(); from wherry.runc.command.entry import main; main()"


def main() -> NoReturn:
    """Run the command line, in a protected copy of the interpreter where that matters, and exit with its status."""
    if any(word in _ENTERING for word in sys.argv[1:]):
        from wherry.linux.own_executable import is_protected, protected_file, run_again

        if not is_protected():
            try:
                run_again(protected_file(), _AGAIN, sys.argv[1:])
            except OSError as error:
                sys.exit(
                    f"wherry-runc: this interpreter cannot be run from a file that no container can write to: {error}"
                )
    import os

    from wherry.linux.own_executable import restore_environment
    from wherry.runc.command.main import main

    restore_environment()
    # What the interpreter would tidy up at its end the kernel does as well, and faster.
    os._exit(main())


if __name__ == "__main__":
    main()
