//! What goes wrong, as data: the network, the processes, their disks, and workers that mean harm.

use crate::{Millis, ScheduleError};

/// What goes wrong, until it stops. Probabilities are per message, rates per minute; those of
/// workers are per worker.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Largest delay of a message, in milliseconds (also after the faults stopped).
    pub delay_ms: Millis,
    /// A message is lost. One of a session takes its connection with it, as TCP would, unless `silent`.
    pub drop: f64,
    /// A message arrives twice.
    pub duplicate: f64,
    /// A message of a session may overtake those before it: no transport of ours does that.
    pub reorder: f64,
    /// A lost message of a session goes unnoticed: harsher than any real transport.
    pub silent: bool,
    /// A worker's connection breaks; often one side does not hear of it.
    pub cuts: f64,
    /// Some workers and the coordinator cannot reach each other, in one direction or both.
    pub partitions: f64,
    /// A worker dies, and comes back with its disk.
    pub worker_crashes: f64,
    /// The coordinator dies, often in the midst of what it was doing, and comes back with its disk.
    pub coordinator_crashes: f64,
    /// An operator pauses the run, and resumes it a little later.
    pub pauses: f64,
    /// A worker's next training takes up to two deadlines, with reports of its progress.
    pub slow: f64,
    /// A worker's next training hangs: no progress, no end, but heartbeats.
    pub stuck: f64,
    /// A worker's disk takes no writes for a while.
    pub full_disks: f64,
    /// A worker dies, and comes back without its disk.
    pub disk_losses: f64,
    /// The coordinator's store takes no writes for a while.
    pub store_failures: f64,
    /// How long a dead process stays dead at most, and a partition or a bad disk lasts, in milliseconds.
    pub down_ms: Millis,
    /// When faults stop, in milliseconds; the run must then heal.
    pub until: Millis,
}

impl Faults {
    /// A network with delays and nothing else.
    pub const CALM: Self = Self {
        delay_ms: 40,
        drop: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        silent: false,
        cuts: 0.0,
        partitions: 0.0,
        worker_crashes: 0.0,
        coordinator_crashes: 0.0,
        pauses: 0.0,
        slow: 0.0,
        stuck: 0.0,
        full_disks: 0.0,
        disk_losses: 0.0,
        store_failures: 0.0,
        down_ms: 0,
        until: 0,
    };

    /// A bad network, crashes and pauses, for a minute and a half.
    pub const HOSTILE: Self = Self {
        delay_ms: 600,
        drop: 0.05,
        duplicate: 0.1,
        cuts: 1.5,
        worker_crashes: 1.0,
        coordinator_crashes: 1.5,
        pauses: 0.7,
        down_ms: 4_000,
        until: 90_000,
        ..Self::CALM
    };

    /// Refuses what is no probability and no sensible rate.
    pub(crate) fn check(&self) -> Result<(), ScheduleError> {
        let fault =
            |key, value: f64, expected| ScheduleError::Fault { key, value: value.to_string(), expected };
        let probabilities = [
            ("drop", self.drop),
            ("duplicate", self.duplicate),
            ("drop + duplicate", self.drop + self.duplicate),
            ("reorder", self.reorder),
        ];
        for (key, value) in probabilities {
            if !(0.0..=1.0).contains(&value) {
                return Err(fault(key, value, "0 to 1"));
            }
        }
        let rates = [
            ("cuts", self.cuts),
            ("partitions", self.partitions),
            ("worker_crashes", self.worker_crashes),
            ("coordinator_crashes", self.coordinator_crashes),
            ("pauses", self.pauses),
            ("slow", self.slow),
            ("stuck", self.stuck),
            ("full_disks", self.full_disks),
            ("disk_losses", self.disk_losses),
            ("store_failures", self.store_failures),
        ];
        for (key, value) in rates {
            if !(0.0..=600.0).contains(&value) {
                return Err(fault(key, value, "0 to 600 a minute"));
            }
        }
        Ok(())
    }
}

/// What a byzantine worker does, for ever. Its session is a proper one: it gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vice {
    /// Uploads NaN.
    NotANumber,
    /// Uploads infinity.
    Infinite,
    /// Uploads a norm of 1e30.
    Huge,
    /// Uploads vectors of another length.
    Shape,
    /// Claims more examples than anybody has.
    Examples,
    /// Claims another learning rate than the one of the round.
    LearningRate,
    /// Announces another digest than that of its payload.
    Digest,
    /// Uploads for the next round, then for the one before.
    Rounds,
    /// Uploads what it uploaded in earlier rounds again.
    Replay,
    /// Offers each upload twenty times at once.
    Flood,
    /// Takes assignments and never answers.
    Mute,
    /// Declines every round.
    Refuse,
    /// Reports impossible evaluations.
    Evaluation,
}

impl Vice {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::NotANumber,
        Self::Infinite,
        Self::Huge,
        Self::Shape,
        Self::Examples,
        Self::LearningRate,
        Self::Digest,
        Self::Rounds,
        Self::Replay,
        Self::Flood,
        Self::Mute,
        Self::Refuse,
        Self::Evaluation,
    ];

    /// Whether no update of such a worker may ever count.
    pub fn is_rejected(self) -> bool {
        matches!(
            self,
            Self::NotANumber
                | Self::Infinite
                | Self::Huge
                | Self::Shape
                | Self::Examples
                | Self::LearningRate
                | Self::Digest
        )
    }
}
