"""The README's commands are the ones that CI runs."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_both_commands_can_be_read_from_the_readme():
    script = runpy.run_path(str(ROOT / ".ci" / "readme_command.py"))
    assert "--model=PixelNet --dataset=pixelrec" in script["readme_command"]("main")
    assert "pytest" in script["readme_command"]("test")


def test_links_of_readme_and_docs_lead_somewhere():
    import re

    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_of_settings_is_up_to_date():
    from recbole_morec.settings_page import page

    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page()
