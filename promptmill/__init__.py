"""The distribution's own data: the shipped models and examples, found by ``package:promptmill``; no code lives here."""

__version__ = "0.1.0"
