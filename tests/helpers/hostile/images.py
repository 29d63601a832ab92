"""Hostile folders and zips of images."""

from flowlit.data import ImageFolder

from .row import Row


def _a_folder_that_is_not_there(folder):
    return len(ImageFolder(str(folder / "nothing")))


ROWS = [
    Row("images: a folder that does not exist", _a_folder_that_is_not_there, ("nothing", "does not exist"))
]
