"""RunRecord: the settings and data of a run, saved with every checkpoint, and compared when the run is resumed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from gloria.data import Row, ShardDataset
from gloria.fingerprint import rows_fingerprint
from gloria.training.options import TrainingOptions

# Options that change no figure; `cpu` is recorded as the device.
NOT_COMPARED = ("cache", "report_to", "progress", "cpu")
# Settings that a resumed run may change. Any other would change the meaning of its position, optimizer or best figure.
CHANGEABLE = (
    "epochs",
    "learning_rate",
    "beta1",
    "weight_decay",
    "max_grad_norm",
    "early_stopping",
    "micro_batch_size",
    "ks",
    "bad_files",
    "workers",
    "bf16",
    "device",
    "training_rows",
)


@dataclass(frozen=True)
class RunRecord:
    """Holds the settings of a run as JSON values.

    Attributes:
        settings: the options that change figures; the `origin` of the model; "processes" and "device"; "count" and
            "sha256" of "training_rows" and "held_out_rows".
        changes: one entry for each resumption with other settings: the "step" after which it happened, and by name the
            value before and after.
    """

    settings: dict[str, Any]
    changes: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        training: Sequence[Row] | ShardDataset,
        held_out: Sequence[Row],
        options: TrainingOptions,
        origin: Mapping[str, Any],
    ) -> "RunRecord":
        """Make the record of a run that begins now, on this process and those that train with it."""
        compared = {name: value for name, value in asdict(options).items() if name not in NOT_COMPARED}
        rows = training.rows if isinstance(training, ShardDataset) else len(training)
        settings = {
            **compared,
            **origin,
            "processes": PartialState().num_processes,
            "device": PartialState().device.type,
            "shards": isinstance(training, ShardDataset),
            "training_rows": {"count": rows, "sha256": rows_fingerprint(training)},
            "held_out_rows": {"count": len(held_out), "sha256": rows_fingerprint(held_out)},
        }
        return cls(json.loads(json.dumps(settings)))

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read the record of a complete checkpoint."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(saved["settings"], tuple(saved["changes"]))

    def going_on_from(self, earlier: "RunRecord", step: int, changed: Sequence[str]) -> "RunRecord":
        """Return the record of a run with these settings that resumes from a checkpoint.

        Args:
            earlier: the record of the checkpoint.
            step: step of the checkpoint.
            changed: names of settings that may differ.

        Raises:
            ValueError: other settings differ: the message names all of them, with both values.
        """
        differing = {
            name: (earlier.settings[name], value)
            for name, value in self.settings.items()
            if name in earlier.settings and earlier.settings[name] != value
        }
        fixed = [name for name in differing if not self._is_changeable(name, differing[name])]
        if "held_out_rows" in fixed:
            raise ValueError(
                "its held-out rows are others, so it would be evaluated on what it was trained on; "
                "resume with the same table, share of held-out patients and seed"
            )
        if fixed or not set(differing) <= set(changed):
            named = ", ".join(_difference(name, *values) for name, values in differing.items())
            if fixed:
                advice = f"{' and '.join(fixed)} cannot change within a run: resume with the same, or start another run"
            else:
                said = " ".join(f"--change {name}" for name in differing)
                advice = f"resume with the same, or take what is new over with {said}"
            raise ValueError(f"the run has {named}; {advice}")
        if not differing:
            return RunRecord(self.settings, earlier.changes)
        now = {"step": step, **{name: list(values) for name, values in differing.items()}}
        return RunRecord(self.settings, (*earlier.changes, now))

    def _is_changeable(self, name: str, values: tuple[Any, Any]) -> bool:
        if name == "training_rows":  # the number of rows determines the order of an epoch, and the run's place in it
            return values[0]["count"] == values[1]["count"]
        if name == "workers":  # with shards, each worker has its own share
            return not self.settings["shards"]
        return name in CHANGEABLE


def check_changes(changed: Sequence[str]) -> None:
    """Raise ValueError for names of settings that a resumed run cannot change."""
    unknown = [name for name in changed if name not in CHANGEABLE]
    if unknown:
        raise ValueError(f"change names {', '.join(unknown)}; expected any of {', '.join(CHANGEABLE)}")


def _difference(name: str, before: Any, now: Any) -> str:
    if name == "training_rows":
        counts = before["count"], now["count"]
        return f"other training_rows, {counts[0]} of them" + (f", not {counts[1]}" if counts[0] != counts[1] else "")
    return f"{name} {before!r}, not {now!r}"
