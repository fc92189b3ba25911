"""Dataset formats: what the names of files mean, and how the cases of a folder are found in each of them."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from brats_cohort.case import WARNING, Case, Fault, Source
from brats_cohort.files import DataError, named
from brats_cohort.nifti import ENDINGS, conversion, open_volume
from brats_cohort.regions import CONVENTIONS, MODALITIES, convention_by_name

SPELLINGS: dict[str, tuple[str, ...]] = {
    "t1": ("t1", "t1n", "t1w", "t1pre", "t1native", "t1wn"),
    "t1ce": ("t1ce", "t1c", "t1gd", "t1post", "t1km", "t1wce", "t1contrast", "t1gado", "ce-gadolinium_t1w"),
    "t2": ("t2", "t2w", "t2wi"),
    "flair": ("flair", "t2f", "fl", "fla", "flr", "t2flair", "t2wflair"),
    "seg": ("seg", "segm", "segmentation", "label", "tumor_segmentation", "tumour_segmentation", "automated_approx_segm"),
}
"""How public data sets end a file's name for each modality and the reference, in lower case. A "mask" may be the brain's."""
_ROLES = {spelling: role for role, spellings in SPELLINGS.items() for spelling in spellings}
_ENDINGS = "|".join(re.sub("^(t[12])(?=.)", "\\1[-_ ]?", ending) for ending in sorted(_ROLES, key=len, reverse=True))
"""Some tools write t1_gd or T2-FLAIR."""
_NAME = re.compile(
    rf"^(?:(?P<stem>.+?)(?P<separator>[-_. ]))?(?P<ending>{_ENDINGS})\.nii(\.gz)?\Z",
    re.IGNORECASE | re.DOTALL,
)
_WITHIN = re.compile(rf"(?:^|[-_. ]+)(?P<ending>{_ENDINGS})(?=$|[-_. ])", re.IGNORECASE)
_OWN = {"brats2021": ("_", {*MODALITIES, "seg"}), "brats2023": ("-", {"t1n", "t1c", "t2w", "t2f", "seg"})}
_MISNAMED = {"W39_1998.09.19": "BraTS20_Training_355"}
"""References that were published under the name that they had before the release."""


@dataclass(frozen=True)
class Format:
    """A dataset format: how the files of a cohort are named, and whose label numbers they use if their names do not say."""

    name: str
    labels: str
    find: Callable[[Path], list[Case]]


def labels_by_name(identifier: str, format: str, default: str = "") -> str:
    """Key of the convention whose numbers the reference of a case has, by its name and the names of its files."""
    key = convention_by_name(identifier, default or FORMATS[format].labels)
    return format if (format, key) == ("brats2023", "brats2021") else key  # renamed, and so renumbered, since


def format_key(name: str) -> str:
    """Resolve the name or alias of a dataset format ("brats2020", "phantom") to its key in `FORMATS`."""
    key = ALIASES.get(name.lower(), name.lower())
    if key not in FORMATS:
        known = [*FORMATS, *ALIASES]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"there is no dataset format {name!r}", f"{hint}choose one of {', '.join(known)}")
    return key


def rows_of(table: Path, separator: str = ",") -> list[dict[str, str]]:
    """Rows of a table by the names in its first row; raises `DataError` if it cannot be read."""
    try:
        with Path(table).open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream, delimiter=separator))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is not a table ({named(error)})", "save it as text in UTF-8") from error


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, links followed; not hidden ones, nor the series as they came beside a prepared session.

    Raises `DataError` if a folder cannot be listed: its cases would be missing without a word.
    """
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        apart = {"lost+found", *(["series"] if "session.json" in files else [])}  # the first is of the file system
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in apart)
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    problem = f"the folder {error.filename} cannot be read ({error.strerror})"
    raise DataError(problem, "change its permissions, or move it out of the cohort") from error


def role_of(name: str) -> tuple[str, str, str] | None:
    """Case, role ("t1" ... "seg") and dataset format that a file's name stands for; None if it is no name of an image."""
    match = _NAME.match(name)
    if not match:
        return None
    ending = _plain(match["ending"])
    own = (key for key, (separator, endings) in _OWN.items() if match["separator"] == separator and ending in endings)
    return match["stem"] or "", _ROLES[ending], next(own, "named")


def _plain(ending: str) -> str:
    """One of `SPELLINGS`, however it is written in a name."""
    return re.sub("^(t[12])[-_ ]", r"\1", ending.lower())


def _base(name: str) -> str:
    """A file's name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)


def _find_named(folder: Path) -> list[Case]:
    """Cases of one file a modality, whose names end in one of `SPELLINGS`."""
    groups: dict[tuple[Path, str], dict[str, list[tuple[Path, str]]]] = defaultdict(lambda: defaultdict(list))
    nameless: dict[tuple[Path, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in (path for path in _walk(folder) if path.name.lower().endswith(ENDINGS)):
        # On Kaggle, a file is often a folder of its own name with one file of another name in it.
        outer = path.parent if path.parent.name.lower().endswith(ENDINGS) else path
        role, above = role_of(outer.name), _role_of_folder(outer.parent)
        if above and not (role and role[0]):  # T1/image.nii.gz, T1/T1.nii.gz
            nameless[outer.parent.parent, above[0]][role[1] if role else above[1]].append(path)
        elif role:
            groups[outer.parent, role[0]][role[1]].append((path, role[2]))
    for (parent, stem), roles in nameless.items():
        if len(set(roles) & set(MODALITIES)) < 2:
            continue
        alone = max(map(len, roles.values())) == 1  # else the file is called as its case: T1/Case_001.nii.gz
        for role, path in ((role, path) for role, paths in roles.items() for path in paths):
            groups[parent, stem if alone or stem else _base(path.name)][role].append((path, "named"))
    found: dict[str, list[Case]] = defaultdict(list)
    strays: dict[Path, list[tuple[str, Path]]] = defaultdict(list)  # references that no image has the name of
    for (parent, stem), roles in sorted(groups.items()):
        if set(roles) == {"seg"}:
            strays[parent].append((stem, roles["seg"][0][0]))
    imaged = {place: roles for place, roles in groups.items() if set(roles) & set(MODALITIES)}
    beside = Counter(parent for parent, _ in imaged)
    apart = {stem: path for others in strays.values() for stem, path in others if _is_apart(path)}
    for (parent, stem), roles in imaged.items():
        case = _named_case(stem or parent.resolve().name or "case", roles)
        if case.label is None:  # of UPENN-GBM's two, this is the expert's: images_segm comes after automated_segm
            case = replace(case, label=apart.get(stem))
        if case.label is None:
            case = _with_misnamed_label(case, strays[parent], alone=beside[parent] == 1)
        found[case.identifier].append(case)
    return [_one_of(cases) for cases in found.values()]


def _is_apart(label: Path) -> bool:
    """Whether a reference may lie in another folder than the images of its name: that of a prediction may not."""
    above = _role_of_folder(label.parent)
    return "_segm." in label.name.lower() or (above is not None and above[1] == "seg")


def _role_of_folder(folder: Path) -> tuple[str, str, str] | None:
    """What `role_of` says of a folder that is named for what its images are, such as T1 or labels."""
    return role_of(f"{folder.name.removesuffix('s')}.nii")


def _named_case(identifier: str, roles: Mapping[str, list[tuple[Path, str]]]) -> Case:
    faults = _doubled(identifier, {role: [path for path, _ in files] for role, files in roles.items()})
    formats = {name for files in roles.values() for _, name in files}
    images = {modality: Source(roles[modality][0][0]) for modality in MODALITIES if modality in roles}
    label = roles["seg"][0][0] if "seg" in roles else None
    key = formats.pop() if len(formats) == 1 else "named"
    return Case(identifier, identifier, key, images, label, faults=faults)


def _doubled(identifier: str, roles: Mapping[str, Sequence[Path]]) -> tuple[Fault, ...]:
    """A fault for each role that several files of a case have."""
    faults = []
    for role, paths in roles.items():
        if len(paths) > 1:
            apart = len({path.name for path in paths}) == len(paths)
            names = " and ".join(path.name if apart else str(path) for path in paths)
            problem = f"{names} are both its {'reference' if role == 'seg' else role}"
            faults.append(Fault(identifier, paths[0].name, problem, "remove or rename all but one"))
    return tuple(faults)


def _with_misnamed_label(case: Case, others: Sequence[tuple[str, Path]], *, alone: bool) -> Case:
    """Give a case the reference beside it whose name says another case, if there is no other case that it can belong to."""
    for name, path in others:
        owner, plain = _MISNAMED.get(name), not name or "_segm." in path.name.lower()
        if owner == case.identifier or (alone and owner is None and plain and len(others) == 1):
            return replace(case, label=path)
    names = [path.name for name, path in others if name not in _MISNAMED]
    problem = f"{', '.join(names)} belongs to no case by its name"
    fault = Fault(case.identifier, "", problem, "name it <case>_seg.nii.gz", WARNING)
    return replace(case, faults=(*case.faults, fault)) if names else case


def _one_of(cases: Sequence[Case]) -> Case:
    """The case of several folders: together if each has other modalities, else the only complete one, else a fault."""
    first = cases[0]
    if len(cases) == 1:
        return first
    images = {modality: source for case in cases for modality, source in case.images.items()}
    labels = list(dict.fromkeys(case.label for case in cases if case.label))
    if len(images) == sum(len(case.images) for case in cases) and len(labels) < 2:
        faults = tuple(fault for case in cases for fault in case.faults)
        return replace(first, images=images, label=labels[0] if labels else None, faults=faults)
    places = " and ".join(str(case.files[0].parent) for case in cases)
    complete = [case for case in cases if not case.missing]
    if len(complete) == 1:
        files = ", ".join(str(path) for case in cases if case.missing for path in case.files)
        fault = Fault(
            first.identifier, "", f"{files} were left out beside a complete set", "move them out of the cohort", WARNING
        )
        return replace(complete[0], faults=(*complete[0].faults, fault))
    problem = f"there are {len(cases)} cases of this name, in {places}"
    return replace(first, faults=(Fault(first.identifier, "", problem, "rename or remove all but one"),))


def _find(key: str) -> Callable[[Path], list[Case]]:
    """Finder for the named cases of one dataset format, and for those beside them of which only some files are spelt so."""

    def find(folder: Path) -> list[Case]:
        cases = _find_named(folder)
        if key in _OWN and any(case.format == key for case in cases):
            cases = [_by_most(case) for case in cases]
        return [case for case in cases if case.format == key]

    return find


def _by_most(case: Case) -> Case:
    """The case in the dataset format of BraTS that most of its files are spelt in, if any is; it may have one odd name."""
    formats = Counter(role[2] for path in case.files if (role := role_of(path.name)))
    own = [key for key in _OWN if formats[key]]
    return replace(case, format=max(own, key=lambda key: formats[key])) if own and case.format == "named" else case


def _find_spelt(folder: Path) -> list[Case]:
    """Find cases in other spellings; if no name ends in one, those whose names differ in one word: T1_to_SRI_brain.nii.gz."""
    if _find_named(folder):
        return _find("named")(folder)
    groups: dict[tuple[Path, str], dict[str, list[tuple[Path, str]]]] = defaultdict(lambda: defaultdict(list))
    for path in (path for path in _walk(folder) if path.name.lower().endswith(ENDINGS)):
        for match in _WITHIN.finditer(_base(path.name)):
            rest = re.sub("^[-_. ]+", "", match.string[: match.start()] + match.string[match.end() :])
            groups[path.parent, rest][_ROLES[_plain(match["ending"])]].append((path, "named"))
    complete = {place: roles for place, roles in groups.items() if set(MODALITIES) <= set(roles)}
    rests = Counter(rest for _, rest in complete)
    cases = []
    for (parent, rest), roles in complete.items():
        case = _named_case(rest if rest and rests[rest] == 1 else parent.resolve().name, roles)
        problem = f"its images are told by a word within their names, such as {next(iter(case.channels)).name}"
        fault = Fault(case.identifier, "", problem, "name them <case>_t1.nii.gz and so on, if that is wrong", WARNING)
        cases.append(replace(case, faults=(*case.faults, fault)))
    return cases


def _description(folder: Path, key: str, name: str) -> tuple[dict, dict[str, int]] | None:
    """Read dataset.json, and from its `key` the channel of each modality; None if it is absent or of another format."""
    path = folder / "dataset.json"
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
        if key not in facts and "channel_names" in (key, *facts):
            return None
        channels = {_ROLES[_plain(name)]: int(number) for number, name in facts[key].items()}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        problem = f"{path} does not describe the channels of {name} ({named(error)})"
        remedy = f'expected "{key}": FLAIR, T1w, t1gd, T2w; data sets of other images cannot be read'
        raise DataError(problem, remedy) from error
    if set(channels) != set(MODALITIES):
        raise DataError(f"{path} names the channels {sorted(channels)}", f"expected all of {list(MODALITIES)}")
    return facts, channels


def _listed(folder: Path, *parts: str) -> dict[str, list[Path]]:
    """NIfTI files of some folders by name; macOS leaves ._BRATS_001.nii.gz beside the real files in an archive."""
    found = defaultdict(list)
    for path in (path for part in parts for path in sorted((folder / part).glob("*"))):
        if path.name.lower().endswith(ENDINGS) and not path.name.startswith("."):
            found[_base(path.name)].append(path)
    return found


def _find_msd(folder: Path) -> list[Case]:
    """Find the cases of MSD Task01: dataset.json, 4-D imagesTr (and imagesTs, without labels), labelsTr."""
    described = _description(folder, "modality", "MSD Task01")
    cases, labels = [], _listed(folder, "labelsTr")
    for name, paths in _listed(folder, "imagesTr", "imagesTs").items() if described else ():
        images = {modality: Source(paths[0], channel) for modality, channel in described[1].items()}
        faults = _doubled(name, {"image": paths, "seg": labels[name]})
        cases.append(Case(name, name, "msd", images, next(iter(labels[name]), None), "msd", faults))
    return cases


def described_labels(folder: Path) -> str | None:
    """Whose label numbers a dataset.json says its references have: "" if it does not tell, None if there is none."""
    if not (folder / "dataset.json").is_file():
        return None
    try:
        if _description(folder, "modality", "MSD Task01"):
            return "msd"
        described = _description(folder, "channel_names", "nnU-Net")
    except DataError:  # of another data set
        return ""
    return _labels_of_nnunet(described[0]) if described else ""


def _labels_of_nnunet(facts: Mapping[str, Any]) -> str:
    """Key of the convention whose regions a dataset.json lists; empty if none has them or voxels are to be ignored."""
    groups = facts.get("labels", {})
    numbers = {frozenset([group] if isinstance(group, int) else group) for group in groups.values()} - {frozenset([0])}
    known = {key: {frozenset(group) for group in each.regions.values()} for key, each in CONVENTIONS.items()}
    return "" if "ignore" in groups else next((key for key in ("nnunet", *known) if known[key] == numbers), "")


def _find_nnunet(folder: Path) -> list[Case]:
    """Find the cases of a raw dataset of nnU-Net: dataset.json, imagesTr/<case>_0000.nii.gz ... _0003, labelsTr."""
    described = _description(folder, "channel_names", "nnU-Net")
    if not described:
        return []
    facts, channels = described
    labels = _labels_of_nnunet(facts)
    images: dict[str, dict[int, list[Path]]] = defaultdict(dict)
    for name, paths in _listed(folder, "imagesTr", "imagesTs").items():
        if match := re.fullmatch(r"(.+)_(\d{4})", name, re.DOTALL):
            images[match[1]][int(match[2])] = paths
    cases, references = [], _listed(folder, "labelsTr")
    for name, files in images.items():
        found = {modality: files[channel] for modality, channel in channels.items() if channel in files}
        faults = _doubled(name, {**found, "seg": references[name]})
        sources = {modality: Source(paths[0]) for modality, paths in found.items()}
        cases.append(Case(name, name, "nnunet", sources, next(iter(references[name]), None), labels, faults))
    return cases


def _find_bids(folder: Path) -> list[Case]:
    """Find the cases of a BIDS dataset: sub-*/ses-*/anat; references with a table of their labels in derivatives."""
    if not (folder / "dataset_description.json").is_file():
        return []
    own = {}  # the name that a session had before it was converted
    for table in folder.glob("sub-*/sub-*_sessions.tsv"):
        own |= {f"{table.parent.name}_{row.get('session_id')}": row.get("case") or "" for row in rows_of(table, "\t")}
    times = Counter(own.values())
    # A name becomes the name of files: one that leads elsewhere, or that two sessions have, is not taken.
    own = {session: name for session, name in own.items() if times[name] == 1 and not re.search(r"[/\\]|^\.", name)}
    cases = []
    for subject, case in ((each, case) for each in sorted(folder.glob("sub-*/")) for case in _find_named(each)):
        identifier = own.get(case.identifier) or case.identifier
        case = replace(case, identifier=identifier, patient=subject.name, format="bids", label=None)
        name = role_of(next(iter(case.channels)).name)[0]
        references = {}
        for label in sorted(folder.glob(f"derivatives/*/sub-*/**/{name}_dseg.nii*")):
            table = label.with_name(f"{name}_dseg.tsv")
            try:
                found = {int(row["index"]): row["name"] for row in rows_of(table, "\t")}
            except (DataError, KeyError, TypeError, ValueError):  # absent, or without whole numbers in a column "index"
                found = {}
            keys = (labels_by_name(case.identifier, "bids", "brats2021"), *CONVENTIONS)
            if key := next((key for key in keys if CONVENTIONS[key].meanings == found), None):
                references[label] = key
            else:
                problem = f"{label.name} was left out, for no {table.name} beside it gives numbers that are known"
                fault = Fault(case.identifier, label.name, problem, "write it with the columns index and name", WARNING)
                case = replace(case, faults=(*case.faults, fault))
        if references:
            label, key = next(iter(references.items()))
            faults = _doubled(case.identifier, {"seg": [*references]})
            case = replace(case, label=label, labels=key, faults=(*case.faults, *faults))
        cases.append(case)
    return cases


def _volumes_of(path: Path) -> int:
    """How many volumes a NIfTI file holds, 0 if it cannot be read."""
    try:
        shape = open_volume(path).shape
    except DataError:
        return 0
    return shape[3] if len(shape) > 3 else 1


def _is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever its name."""
    if not (path.is_file() and os.access(path, os.R_OK)):  # as a link to nowhere is not
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def find_cases(folder: Path, wanted: str | None = None) -> list[Case]:
    """Find the cases of one dataset format, by default of the first that fits.

    By default a case beside those of BraTS is found too, however its files are spelt, so that none is dropped silently.
    """
    for key in [wanted] if wanted else FORMATS:
        if cases := FORMATS[key].find(folder):
            return list(map(_by_most, _find_named(folder))) if key in _OWN and not wanted else cases
    return []


def nothing_found(folder: Path, wanted: str | None) -> DataError:
    """Say what is in a folder without a case, and which name was nearest."""
    paths = list(_walk(folder))
    problem = f"{folder} holds no case in {FORMATS[wanted].name if wanted else 'any known dataset format'}"
    remedy = "name the files <case>_t1.nii.gz, _t1ce, _t2, _flair and _seg"
    images = [path for path in paths if path.name.lower().endswith(ENDINGS)]
    if not paths:
        return DataError(f"{problem}: it is empty", "give the folder that holds the cases")
    if datasets := [path.parent for path in sorted(folder.glob("*/dataset.json"))]:
        return DataError(f"{problem}, but folders that are datasets", f"give one of them, such as {datasets[0]}")
    if not images:
        endings = Counter(path.suffix.lower() or "without an ending" for path in paths)
        found = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(4))
        if any(map(_is_dicom, paths)):
            remedy = "these are DICOM files: segment them with predict --raw FOLDER, or prepare them with scan-session"
            return DataError(f"{problem}: no NIfTI file, but {found}", remedy)
        other = next((path for path in paths if conversion(path) != conversion(Path("x"))), None)
        return DataError(f"{problem}: no NIfTI file, but {found}", conversion(other) if other else remedy)
    name = images[0].name
    stacked = [path.name for path in images if _volumes_of(path) == len(MODALITIES)]
    if stacked and not wanted:
        problem = f"{problem}: {stacked[0]} holds four volumes, and no dataset.json says which is which"
        return DataError(problem, "write each to a file of its own, or add the dataset.json of MSD Task01")
    if wanted and (other := _find_named(folder)):
        return DataError(problem, f"its files, such as {other[0].files[0].name}, are in the format {other[0].format}")
    words = ((called, word) for called in (name, images[0].parent.name) for word in re.split("[-_. ]", _base(called))[::-1])
    near = ((called, difflib.get_close_matches(word.lower(), _ROLES, 1, 0.6)) for called, word in words if len(word) > 1)
    hint = next(
        (f"; the nearest known ending of {called} is {found[0]}" for called, found in near if found), f", such as {name}"
    )
    return DataError(f"{problem}: {len(images)} NIfTI files{hint}", remedy)


FORMATS: dict[str, Format] = {
    "bids": Format("BIDS (sub-<patient>/ses-<session>/anat/..._T1w.nii.gz, _ce-gadolinium_T1w, _T2w, _FLAIR)", "", _find_bids),
    "brats2021": Format("BraTS 2018-2021 (<case>/<case>_t1.nii.gz, _t1ce, _t2, _flair, _seg)", "brats2021", _find("brats2021")),
    "brats2023": Format(
        "BraTS 2023 and later (<case>/<case>-t1n.nii.gz, -t1c, -t2w, -t2f, -seg)", "brats2023", _find("brats2023")
    ),
    "named": Format("other spellings of one file a modality (t1.nii.gz, <case>-T1Gd.nii.gz)", "brats2021", _find_spelt),
    "nnunet": Format("nnU-Net (dataset.json, imagesTr/<case>_0000.nii.gz to _0003, labelsTr)", "nnunet", _find_nnunet),
    "msd": Format("MSD Task01 (dataset.json, imagesTr/BRATS_001.nii.gz with four channels, labelsTr)", "msd", _find_msd),
}
"""Dataset formats. To read a cohort of your own, rename its files to one of them or add a `Format` here."""
DESCRIBED = ("bids", "nnunet", "msd")
"""Formats whose descriptions, not the names of their cases, say whose label numbers they use."""
ALIASES: dict[str, str] = {
    **dict.fromkeys(("phantom", "brats2018", "brats2019", "brats2020"), "brats2021"),
    **dict.fromkeys(("brats2024", "brats-peds", "brats-met", "brats-men", "brats-africa"), "brats2023"),
    **dict.fromkeys(("ucsf-pdgm", "upenn-gbm"), "named"),
    "task01": "msd",
}
"""Other names of dataset formats."""
