"""The exception tree: one base class, one line per kind of failure."""


class CGALError(Exception):
    """Base class of every error that cgal_plugin raises on purpose."""


class ConfigError(CGALError):
    """A configuration file or argument is wrong: names the path, the value and what is allowed."""


class UnitError(CGALError):
    """An array came with a unit that is not known."""


class MappingError(CGALError):
    """A molecule cannot be mapped to beads, or a force map does not fit the mapping."""


class DataError(CGALError):
    """Labelled frames are malformed, or do not belong to the data set they are added to."""


class PriorFitError(CGALError):
    """A prior term cannot be fitted from the frames given."""


class RegistrationError(CGALError):
    """TorchMD-Net does not have the seam that register() expects."""


class TrainingError(CGALError):
    """Training cannot start, or diverged."""


class ExportError(CGALError):
    """A model cannot be exported, or an exported potential is not what it should be."""


class DynamicsError(CGALError):
    """A CG simulation cannot be set up or continued."""


class SelectionError(CGALError):
    """Frames cannot be selected from the candidates given."""


class OracleError(CGALError):
    """The all-atom oracle cannot label anything."""


class BackmapError(OracleError):
    """Backmapping cannot be attempted (single failures are quarantined, not raised)."""


class AnalysisError(CGALError):
    """Evaluation is impossible with the trajectories given."""


class StateError(CGALError):
    """A run directory is in a state that does not allow to go on."""
