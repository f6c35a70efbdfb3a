"""Lay out a build folder like an installed package, so that PYTHONPATH=<site> runs a checkout.

The Python files are links to the sources; the compiled modules are put beside them by the build;
the metadata carries the entry points, which torch looks up by distribution.
"""

import runpy
import sys
import tomllib
from pathlib import Path


def link_package(source: Path, target: Path) -> None:
    """Mirror the Python tree below source as links below target; drop links whose source is gone."""
    for link in (path for path in target.rglob("*") if path.is_symlink() and not path.exists()):
        link.unlink()
    for file in source.rglob("*"):
        if file.is_dir() or "__pycache__" in file.parts or file.suffix == ".so":
            continue
        link = target / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(file)


def write_metadata(project: dict, version: str, site: Path) -> None:
    """Write the distribution's name, version and entry points where importlib.metadata finds them."""
    name = project["name"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    lines: list[str] = []
    for group, entries in groups.items():
        lines.append(f"[{group}]")
        lines += [f"{key} = {value}" for key, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def main() -> None:
    root, site = Path(sys.argv[1]), Path(sys.argv[2])
    link_package(root / "python" / "liger_compile", site / "liger_compile")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    version = runpy.run_path(str(root / "python" / "liger_compile" / "_version.py"))["__version__"]
    write_metadata(project, version, site)


if __name__ == "__main__":
    main()
