"""Print the command that follows ``<!-- command: NAME -->`` in the README."""

import re
import sys
from pathlib import Path


def readme_command(name: str) -> str:
    """The text of the fenced block after the marker.

    Raises:
        SystemExit: the README holds no such block.
    """
    readme = Path(__file__).resolve().parent.parent / "README.md"
    pattern = rf"<!-- command: {re.escape(name)} -->\s*```\w*\n(.*?)```"
    found = re.search(pattern, readme.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise SystemExit(f"README.md has no command named {name!r}")
    return found.group(1).strip()


if __name__ == "__main__":
    print(readme_command(sys.argv[1]))
