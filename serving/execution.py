"""What the settings of a server say over a bundle's serving profile: on what its graph runs here."""

from dataclasses import dataclass

from contracts.bundle import ServingProfile
from contracts.providers import Provider, decode_providers, name_of, provider_name

NO_REQUIREMENT = "none"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """None leaves the profile's own.

    The operator knows the machine, so `providers` replace the profile's list with its options. A requirement of the
    bundle stays in force then: only `require` replaces it, and only `is_requirement_lifted` takes it away.
    """

    providers: tuple[str | Provider, ...] | None = None
    require: str | None = None
    is_requirement_lifted: bool = False

    def providers_for(self, profile: ServingProfile) -> tuple[str | Provider, ...]:
        """What is tried, by preference."""
        return profile.providers if self.providers is None else self.providers

    def requirement_for(self, profile: ServingProfile) -> str | None:
        """ONNX Runtime's name of the provider that must be in use, or None."""
        if self.is_requirement_lifted:
            return None
        required = self.require or profile.require
        return None if required is None else provider_name(required)


AS_BUNDLED = Execution()


def read_execution(providers: str, require: str) -> Execution:
    """From the two settings, empty where they are not set; `require` may be `none`.

    Raises:
        ValueError: a provider or an option is unknown, or what is required would not be tried.
    """
    tried = decode_providers(providers) if providers else None
    if require == NO_REQUIREMENT:
        return Execution(providers=tried, is_requirement_lifted=True)
    found = Execution(providers=tried, require=provider_name(require) if require else None)
    names = [name_of(provider) for provider in tried or ()]
    if tried is not None and found.require is not None and found.require not in names:
        raise ValueError(f"{require} is required, and is not among the providers {', '.join(names)}")
    return found
