"""What Hydra prints about a job of a sweep that failed."""

from typing import Any

from hydra.experimental.callback import Callback

from mapft.utils.redact import redact_command


class RedactOverrides(Callback):
    """No secret in the overrides that Hydra prints after the error of a job (hydra.callbacks in conf/config.yaml)."""

    def on_job_end(self, config: Any, job_return: Any, **_: Any) -> None:
        """At the end of each job, in its process."""
        job_return.overrides = [redact_command(word) for word in job_return.overrides or ()]
