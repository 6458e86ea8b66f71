"""Exceptions: one base class, one class per kind of failure."""


class CGALError(Exception):
    """Base class of all errors that cgal_plugin raises."""


class ConfigError(CGALError):
    """A configuration file or argument is invalid."""


class UnitError(CGALError):
    """The unit of an array is unknown."""


class MappingError(CGALError):
    """A molecule cannot be mapped to beads, or a force map does not fit the mapping."""


class DataError(CGALError):
    """Frames are malformed, or do not fit the data set to which they are added."""


class PriorFitError(CGALError):
    """A prior term cannot be fitted to the given frames."""


class RegistrationError(CGALError):
    """TorchMD-Net lacks an attribute that register() needs, or a name is already used."""


class TrainingError(CGALError):
    """Training cannot start, or diverged."""


class ExportError(CGALError):
    """A model cannot be exported, or an exported potential is invalid."""


class DynamicsError(CGALError):
    """A CG simulation cannot be set up or continued."""


class SelectionError(CGALError):
    """Frames cannot be selected from the given candidates."""


class NothingToSelect(SelectionError):
    """No candidate is left to label: the training data cover the samples of the model. A run then ends."""


class OracleError(CGALError):
    """The oracle cannot label frames."""


class BackmapError(OracleError):
    """Backmapping cannot start (failures of single frames are quarantined, not raised)."""


class AnalysisError(CGALError):
    """The given trajectories cannot be evaluated."""


class StateError(CGALError):
    """A run directory or another folder cannot be used: it is in use, damaged, or belongs to another run."""


class DamageError(StateError):
    """A file in a folder of this package is damaged or missing. A run makes it again."""


class CGALWarning(UserWarning):
    """Something was changed, left out or assumed when data were read; the text names it."""
