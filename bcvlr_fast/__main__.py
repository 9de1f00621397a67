"""The console script `bcvlr`: one name for all commands."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "train": "learn a policy from expert videos and reward-free interaction",
    "evaluate": "score a policy beside random play and the expert",
    "report": "write a run's report again",
    "record": "record an expert as a video dataset",
    "expert": "make an expert, or list the bundled ones",
    "videos": "import, inspect or export expert videos",
}


def main() -> None:
    """Runs `bcvlr COMMAND ...` as `python -m bcvlr_fast.COMMAND ...`."""
    command, *arguments = sys.argv[1:] or [""]
    if command not in COMMANDS:
        listing = "\n".join(f"  {name:<10}{purpose}" for name, purpose in COMMANDS.items())
        print(f"usage: bcvlr COMMAND [options]\n\n{listing}\n\nbcvlr COMMAND --help lists a command's options.")
        if command in ("", "-h", "--help"):
            return
        print(f"error: command: expected one of {', '.join(COMMANDS)}, got '{command}'", file=sys.stderr)
        sys.exit(2)
    sys.argv = ["", *arguments]  # runpy fills in the program
    runpy.run_module(f"bcvlr_fast.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
