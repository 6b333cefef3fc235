"""Named errors. Each message is one line: which file or setting, what was wrong, what to do."""


class Spa3RError(Exception):
    """Base of every error this project raises on purpose; the CLI prints it without a traceback."""


class ConfigError(Spa3RError, ValueError):
    """A configuration that contradicts itself or names something unknown."""


class FormatError(Spa3RError):
    """A file that is not what its name says: wrong version, impossible length, corrupt part."""


class ImageError(Spa3RError):
    """An image or depth map that does not decode, or decodes to another size than declared."""


class SizesError(ImageError):
    """Images of one scene that do not come to one working size."""


class MediaError(Spa3RError):
    """Images, a video or a scan of a conversation that cannot be shown to a model."""

    def __init__(self, line: str, reason: str) -> None:
        super().__init__(line)
        self.reason = reason
        """Short and the same for all of its kind: what drops are counted by."""

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str]]:
        return type(self), (str(self), self.reason)


class SceneError(Spa3RError):
    """A scene that cannot be used as a whole: missing, empty, or with too few usable frames."""


class ShardError(Spa3RError):
    """A shard, manifest or sidecar that is missing, incomplete or not of the expected schema."""


class DamageError(ShardError):
    """A sample of a shard that is absent, cut short, misshapen or not finite; others may be
    whole. Not a failure of the storage."""


class WeightsError(Spa3RError):
    """A checkpoint with missing, unexpected or misshapen tensors (all of them are named)."""


class TeacherError(Spa3RError):
    """A teacher that is missing, differs from the recorded one, or lacks the input it needs."""


class PromptError(Spa3RError):
    """A question or conversation that a language model cannot take: turns out of order, <image>
    where there is none, or too long."""


class TrainingError(Spa3RError):
    """Training had to stop: a non-finite loss or gradient, or a checkpoint of another run."""


class StoppedError(TrainingError):
    """A run that was asked to stop (SIGTERM) and saved its state: start it again to continue."""


class SweepError(Spa3RError):
    """Some recipes of a sweep failed; what the others gave is kept and compared."""


class ServiceError(Spa3RError):
    """A server (MLflow, Prefect) that cannot be reached; the message holds its URI and a cure."""
