"""Write the table of a folder with two levels, `domain/class/image`: a column of 0/1 for each, and the class as text.

python docs/folder_table.py FOLDER TABLE.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    """Read the names of the images below FOLDER and write TABLE.csv."""
    root, table = Path(sys.argv[1]), Path(sys.argv[2])
    images = sorted(path.relative_to(root) for path in root.glob("*/*/*") if path.suffix.lower() in SUFFIXES)
    domains = sorted({image.parts[0] for image in images})
    classes = sorted({image.parts[1] for image in images})
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *domains, *classes, "class"])
        for image in images:
            domain, kind = image.parts[:2]
            bits = [int(domain == one) for one in domains] + [int(kind == one) for one in classes]
            writer.writerow([image.as_posix(), *bits, kind])


if __name__ == "__main__":
    main()
