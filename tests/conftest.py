"""Settings of all tests."""

from hypothesis import settings

# A shared machine may be slow at any moment; what is tested is values, never times.
settings.register_profile("values", deadline=None)
settings.load_profile("values")
