"""Policy profiles by name: those shipped with Gatepost, and those of an administrator's folder; or a file by path."""

from pathlib import Path
from typing import Any

from backend.core.policy.profile import Profile, ProfileError
from backend.core.policy.profile_file import extended, read_toml

SHIPPED = Path(__file__).parent


def shipped_names() -> list[str]:
    """The names of the profiles shipped with Gatepost."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def profile_names(folder: Path | None = None) -> list[str]:
    """The names of all profiles."""
    return sorted({*shipped_names(), *(path.stem for path in folder.glob("*.toml"))} if folder else shipped_names())


def load_profile(name: str, folder: Path | None = None) -> Profile:
    """Load a profile. Raises ProfileError when it does not exist or is invalid."""
    if name.endswith(".toml"):
        return _read(Path(name))
    known = profile_names(folder)
    if name not in known:
        raise ProfileError(f"no profile {name!r}; choose from {', '.join(known)}")
    return _read((SHIPPED if name in shipped_names() or folder is None else folder) / f"{name}.toml")


def check_folder(folder: Path) -> None:
    """Load every profile of an administrator's folder. Raises ProfileError for the first that is invalid."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ProfileError(f"{folder}: {error.strerror}") from error
    for path in files:
        if path.stem in shipped_names():
            raise ProfileError(f"{path}: {path.stem} is a shipped profile; choose another name")
        if (name := _read(path).name) != path.stem:
            raise ProfileError(f"{path}: profile.name: must be {path.stem!r} as the file, found {name!r}")


def _read(path: Path) -> Profile:
    try:
        return Profile.from_tables(*_tables(path))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ProfileError(f"{path}: {why}") from error
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error


def _tables(path: Path) -> tuple[dict[str, Any], str]:
    """What a file and those that it extends say, and the text of all. Raises OSError and ProfileError."""
    text = path.read_text()
    tables = read_toml(text)
    base = tables.pop("extends", None)
    if base is None:
        return tables, text
    if base not in shipped_names():
        raise ProfileError(f"profile.extends: must be one of {', '.join(shipped_names())}")
    base_tables, base_text = _tables(SHIPPED / f"{base}.toml")
    return extended(base_tables, tables), f"{text}{base_text}"
