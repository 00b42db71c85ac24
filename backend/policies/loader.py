"""Policy profiles: those shipped with Gatepost by name, or an administrator's own file by path."""

from pathlib import Path

from backend.core.policy.profile import Profile, ProfileError

SHIPPED = Path(__file__).parent


def shipped_names() -> list[str]:
    """The names of the profiles shipped with Gatepost."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """Load a profile. Raises ProfileError when it does not exist or is invalid."""
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not name.endswith(".toml") and name not in shipped_names():
        raise ProfileError(f"no profile {name!r}; choose from {', '.join(shipped_names())}, or name a .toml file")
    try:
        return Profile.from_toml(path.read_text())
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from error
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error
