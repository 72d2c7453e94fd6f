"""Links of the repository's Markdown, as the website needs them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

Map = Mapping[Path, str]  # a file of the repository: its page, relative to the site's root
CODE = r"^ {0,3}(?P<ticks>`{3,}).*?^ {0,3}(?P=ticks)$|`[^`\n]+`"
LINK = r"(?P<image>!?)\[(?P<words>[^\]]*)\]\((?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)"
EITHER = re.compile(f"{CODE}|{LINK}", re.MULTILINE | re.DOTALL)


def rewritten(text: str, source: Path, page: str, pages: Map) -> str:
    """The text with relative links turned into the site's; code is left alone.

    A link to a file that is no page (a table of data, a module) becomes its path in the repository. A link to nothing
    is left as it is: the build complains of it.
    """
    root = next(folder for folder in source.parents if (folder / "pyproject.toml").is_file())

    def turned(match: re.Match[str]) -> str:
        path = match["path"]
        if not path or "://" in path or path.startswith("mailto:"):
            return match.group(0)
        file = (source.parent / path).resolve()
        if file in pages:
            there = os.path.relpath(pages[file], os.path.dirname(page) or ".")
            return f"{match['image']}[{match['words']}]({there}{match['anchor'] or ''})"
        return f"`{file.relative_to(root)}`" if file.is_file() else match.group(0)

    return EITHER.sub(turned, text)
