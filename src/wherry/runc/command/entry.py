"""Where wherry-runc begins: before anything is imported that a second interpreter would have to import again.

What becomes a container's process runs from a copy of the interpreter that nobody can write to (CVE-2019-5736).
"""

from __future__ import annotations

import sys

#: The commands of which a copy of this process enters a container.
_ENTERING = ("create", "run", "exec")

_AGAIN = "from wherry.runc.command.entry import main; sys.exit(main())"


def main() -> int:
    """Run the command line, in a protected copy of the interpreter where that matters; return its exit status."""
    if any(word in _ENTERING for word in sys.argv[1:]):
        from wherry.linux.own_executable import is_protected, run_again, sealed_copy

        if not is_protected():
            try:
                run_again(sealed_copy(), _AGAIN, sys.argv[1:])
            except OSError as error:
                sys.stderr.write(
                    f"wherry-runc: this interpreter cannot be run from a copy that is safe from containers: {error}\n"
                )
                return 1
    from wherry.linux.own_executable import restore_environment
    from wherry.runc.command.main import main

    restore_environment()
    return main()


if __name__ == "__main__":
    sys.exit(main())
