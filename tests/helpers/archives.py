"""Look into archives and change them, as somebody would who means harm."""

import json
import zipfile


class Thief:
    """A pickle that runs code: it makes a file as soon as it is loaded."""

    def __init__(self, loot):
        self.loot = str(loot)

    def __reduce__(self):
        return open, (self.loot, "w")


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read(path, member):
    return next(raw for name, raw in members(path).items() if name.endswith(member))


def program(path):
    return json.loads(read(path, "models/model.json"))


def replace(path, member, raw, packed=zipfile.ZIP_STORED):
    """Put something into an archive, in the place of a member or as a new one."""
    held = members(path)
    root = next(iter(held)).partition("/")[0]
    held[f"{root}/{member}"] = raw
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, content in held.items():
            archive.writestr(name, content)
