"""Build hook: the README of the package, whose links also work outside of a checkout.

On a package index, a link such as `docs/writer.md` points nowhere. Where `[project.urls]` names the repository's
address under `Source`, links become addresses there, of the tag of this version. As long as it names none, they
become plain file names: the files are in the source distribution.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A fenced block of code, which stays as it is, or a link that is neither an address nor a place on the page.
_CODE_OR_LINK: Final = re.compile(
    r"^```.*?^```$|\[(?P<text>[^\]]+)\]\((?!\w+:|#)(?P<path>[^)\s]+)\)", re.MULTILINE | re.DOTALL
)


class ReadmeHook(MetadataHookInterface):
    """Sets `readme`, which pyproject.toml declares as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README to the metadata.

        Args:
            metadata: the table `project` of pyproject.toml.
        """
        readme = (Path(self.root) / "README.md").read_text("utf-8")
        source = metadata.get("urls", {}).get("Source")
        text = with_links_for_an_index(readme, source, f"v{metadata['version']}")
        if source is None:
            text += "\nThe files that this page names are in the source distribution.\n"
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_links_for_an_index(readme: str, source: str | None, tag: str) -> str:
    """Return a README without links that are relative to the repository.

    Args:
        readme: its Markdown.
        source: the address of the repository; None for none.
        tag: the tag of the version, such as `v0.1.0`.
    """

    def rewritten(found: re.Match[str]) -> str:
        text, path = found["text"], found["path"]
        if text is None:
            return found[0]
        if source is not None:
            return f"[{text}]({source.rstrip('/')}/blob/{tag}/{path})"
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    return _CODE_OR_LINK.sub(rewritten, readme)
