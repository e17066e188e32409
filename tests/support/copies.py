"""Copies of the package with some of its source replaced."""

import shutil

import paths


def copied(folder, name, *pieces, once=True):
    """Copy the package, with its compiled files, under another name; in ``pieces``, (file, old, new), source is replaced.

    ``once``: what is replaced stands in its file one time.
    """
    shutil.copytree(paths.PACKAGE, folder / name, ignore=shutil.ignore_patterns("cli", "*.pyc.*"))
    for file, old, new in pieces:
        path = folder / name / file
        source = path.read_text()
        found = source.count(old)
        assert found == 1 if once else found >= 1, f"{file} has {found} of {old!r}"
        path.write_text(source.replace(old, new))
