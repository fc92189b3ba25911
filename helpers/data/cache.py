"""Names of prepared files: a hash of all that went into one, so that a file which exists is right."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from helpers.data.files import DataError
from helpers.data.layouts import Case
from helpers.data.prepared import VERSION, PreprocessSettings
from helpers.regions import MODALITIES


def prepared_path(case: Case, folder: Path, settings: PreprocessSettings) -> Path:
    """Where the prepared file of a case is or will be; reads the files of the case to hash them, raises `DataError`."""
    digest = hashlib.blake2b(digest_size=6)
    sources = [(modality, case.images[modality].channel) for modality in MODALITIES if modality in case.images]
    recipe = [VERSION, case.layout, case.identifier, sources, case.label is not None, asdict(settings)]
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    for path in case.files:
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise DataError(f"case {case.identifier}: {path} cannot be read ({error}); check the folder") from error
        digest.update(hashlib.blake2b(contents).digest())
    return Path(folder) / f"{case.identifier}-{digest.hexdigest()}.safetensors"


def prune_prepared(folder: Path, paths: Mapping[str, Path]) -> tuple[Path, ...]:
    """Remove prepared files of the same identifiers under another hash."""
    removed = []
    for file in sorted(folder.glob("*.safetensors")):
        match = re.fullmatch(r"(.+)-[0-9a-f]{12}\.safetensors", file.name)
        if match and match[1] in paths and file != paths[match[1]]:
            file.unlink()
            removed.append(file)
    return tuple(removed)
