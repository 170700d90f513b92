"""The part of the adapters that does not depend on an event loop."""
