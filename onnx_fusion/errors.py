"""The errors a user may see; each message is one line that says where, what, and what to do."""


class OnnxFusionError(Exception):
    """Something the user can act on; the command line prints the message and exits with 1."""


class ModelError(OnnxFusionError):
    """The model cannot be read, is not valid, or is outside what the installed ONNX Runtime
    accepts."""


class ProgramError(OnnxFusionError):
    """A tile program's text is not valid, or its shapes do not bind."""


class LibraryError(OnnxFusionError):
    """The native library is missing, or refuses to load."""


class VerifyError(OnnxFusionError):
    """Two models do not compute the same numbers."""
