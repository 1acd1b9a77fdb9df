//! Deliberate defects of the drivers, each with the invariant that must find it: an invariant that no
//! defect violates would be idle.

use crate::{Profile, Schedule, run};

/// A deliberate defect, placed in the seam between a real machine and its surroundings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mutation {
    /// None.
    #[default]
    None,
    /// A worker keeps its new client state as soon as its upload was accepted.
    CommitEarly,
    /// A worker uploads before it has written what it uploads.
    UploadBeforeSave,
    /// A worker uploads although its disk did not take the pending state.
    UploadUnsaved,
    /// A worker whose state is lost trains on from zero.
    TrainOnLostState,
    /// A worker takes the closing of any round for the one of its pending update.
    SettleAnyRound,
    /// A worker offers an upload once only.
    ForgetRetry,
    /// The coordinator folds a duplicate.
    CountTwice,
    /// The coordinator folds an update that failed vetting.
    CountRejected,
    /// The coordinator does not vet values.
    SkipVetting,
    /// The coordinator sums in floating point, in order of arrival.
    ArrivalOrder,
    /// The coordinator keeps what was folded when a round is given up.
    KeepUploads,
    /// The coordinator tells workers of a commit before the disk has it.
    ConfirmBeforeDisk,
    /// The coordinator asks workers before the disk has the opening.
    AssignBeforeDisk,
    /// The coordinator writes the record before a commit over the one after it.
    StaleRecord,
    /// The coordinator answers a repeated upload with silence.
    SilentDuplicate,
    /// The coordinator does not count newcomers.
    ForgetNewcomers,
    /// The coordinator never calls back at a deadline.
    IgnoreDeadline,
    /// The coordinator calls back at half of each deadline.
    EarlyDeadline,
    /// The coordinator forgets quarantines when it restarts.
    ForgetQuarantine,
    /// The coordinator counts any rejection as a fault of the worker.
    BlameEverybody,
    /// The coordinator drops the events that its disk did not take.
    LoseEvents,
    /// The coordinator does not hear reports of progress.
    DeafToProgress,
    /// The coordinator releases a model before the ledger has it.
    ReleaseBeforeLedger,
    /// The coordinator of a run without rounds does not write its buffer down.
    LoseBuffer,
    /// The coordinator of a run without rounds keeps a buffer that was committed.
    BufferTwice,
    /// The coordinator of a run without rounds counts old updates like fresh ones.
    FreshWeight,
    /// The coordinator of a run without rounds forgets the models that somebody still trains on.
    DropVersions,
    /// The coordinator draws new noise when it tries a round again.
    FreshNoise,
    /// The coordinator gives every sum of a round the same noise.
    NoiseOfTheRound,
    /// The coordinator draws new noise on the count of those within the norm when it tries a round again.
    FreshCount,
    /// The coordinator draws new noise on the metrics of a round when it tries it again.
    FreshMetrics,
    /// The coordinator writes the norm that follows from a round before the ledger has the round.
    NormBeforeLedger,
    /// The coordinator begins correlated noise anew when it restarts.
    StreamFromStart,
    /// The coordinator forgets how often workers took part when it restarts.
    ForgetParticipations,
    /// The coordinator releases sums of too few noise shares.
    FewShares,
    /// A worker offers an upload that its ledger has not paid for.
    OfferUnpaid,
    /// A worker trains anew whenever it is asked, and pays for a round once, whatever it uploads in it.
    PayByRound,
    /// A worker writes behind half a line of its ledger.
    KeepHalfALine,
}

/// What finds a mutation.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    /// The defect.
    pub mutation: Mutation,
    /// What it is, in words.
    pub about: &'static str,
    /// Under which profile it shows.
    pub profile: &'static str,
    /// Which invariants may find it first.
    pub caught_by: &'static [&'static str],
}

const fn trap(
    mutation: Mutation,
    about: &'static str,
    profile: &'static str,
    caught_by: &'static [&'static str],
) -> Trap {
    Trap { mutation, about, profile, caught_by }
}

/// Every mutation.
pub const TRAPS: &[Trap] = &[
    trap(Mutation::CommitEarly, "client state kept without confirmation", "hostile", &["confirmed"]),
    trap(Mutation::UploadBeforeSave, "upload before the pending state is durable", "hostile", &["balance"]),
    trap(
        Mutation::UploadUnsaved,
        "a failed write of pending state ignored",
        "disks",
        &["balance", "nothing is lost"],
    ),
    trap(Mutation::TrainOnLostState, "lost client state replaced by zero", "disks", &["balance"]),
    trap(
        Mutation::SettleAnyRound,
        "pending state settled by another round",
        "silent",
        &["confirmed", "balance"],
    ),
    trap(Mutation::ForgetRetry, "a lost upload never sent again", "everybody", &["answered", "bounded"]),
    trap(Mutation::CountTwice, "double counting", "hostile", &["once"]),
    trap(Mutation::CountRejected, "a rejected update counted", "byzantine", &["once"]),
    trap(Mutation::SkipVetting, "vetting skipped", "byzantine", &["accepted"]),
    trap(Mutation::ArrivalOrder, "aggregate depends on the order of arrival", "hostile", &["aggregate"]),
    trap(Mutation::KeepUploads, "uploads of a given-up round kept", "hostile", &["once"]),
    trap(Mutation::ConfirmBeforeDisk, "commit announced before it is durable", "hostile", &["confirmed"]),
    trap(Mutation::AssignBeforeDisk, "round announced before it is durable", "hostile", &["announced"]),
    trap(Mutation::StaleRecord, "a late write undoes a commit", "hostile", &["balance", "monotone"]),
    trap(Mutation::SilentDuplicate, "a lost verdict not sent again", "silent", &["answered"]),
    trap(Mutation::ForgetNewcomers, "newcomers not counted in means", "hostile", &["balance"]),
    trap(Mutation::IgnoreDeadline, "deadline ignored", "slow", &["armed"]),
    trap(Mutation::EarlyDeadline, "deadline too early", "slow", &["armed", "patient"]),
    trap(Mutation::ForgetQuarantine, "quarantine forgotten after a restart", "byzantine", &["quarantine"]),
    trap(Mutation::BlameEverybody, "an honest worker quarantined", "hostile", &["quarantine"]),
    trap(Mutation::LoseEvents, "events lost when the disk fails", "disks", &["log"]),
    trap(Mutation::ReleaseBeforeLedger, "a release that is not paid for", "private", &["paid"]),
    trap(Mutation::FreshNoise, "new noise on the same sum in a retry", "private", &["noise"]),
    trap(Mutation::NoiseOfTheRound, "the same noise on two different sums", "private", &["noise"]),
    trap(Mutation::FreshCount, "new noise on the same count in a retry", "private", &["noise"]),
    trap(Mutation::FreshMetrics, "new noise on the same metrics in a retry", "private", &["noise"]),
    trap(Mutation::NormBeforeLedger, "a norm that follows from what is not paid for", "private", &["norm"]),
    trap(Mutation::ReleaseBeforeLedger, "a run of DP-FTRL that is not paid for", "correlated", &["paid"]),
    trap(Mutation::FreshNoise, "noise of DP-FTRL that does not cancel", "correlated", &["noise"]),
    trap(Mutation::StreamFromStart, "noise of DP-FTRL that comes twice", "correlated", &["noise"]),
    trap(
        Mutation::ForgetParticipations,
        "a worker in more rounds than are paid for",
        "correlated",
        &["capped"],
    ),
    trap(Mutation::ReleaseBeforeLedger, "a sum of shares that is not paid for", "shares", &["paid"]),
    trap(Mutation::FewShares, "a sum with too little noise", "shares", &["enough"]),
    trap(Mutation::UploadBeforeSave, "a second noise on the same update", "shares", &["sealed"]),
    trap(Mutation::CountTwice, "a noise share counted twice", "shares", &["once"]),
    trap(Mutation::ReleaseBeforeLedger, "workers' noise that is not paid for", "ledgers", &["paid"]),
    trap(Mutation::OfferUnpaid, "an upload that its worker has not paid for", "ledgers", &["left"]),
    trap(Mutation::PayByRound, "two uploads of a round paid for once", "ledgers", &["left"]),
    trap(Mutation::KeepHalfALine, "a ledger that cannot be read after a crash", "ledgers", &["left"]),
    trap(Mutation::UploadBeforeSave, "a worker's noise drawn twice", "ledgers", &["sealed"]),
    trap(Mutation::LoseBuffer, "a buffer that does not survive", "buffered", &["told", "versions"]),
    trap(Mutation::BufferTwice, "a buffer committed twice", "buffered", &["counted", "versions"]),
    trap(Mutation::FreshWeight, "old updates counted like fresh ones", "buffered", &["aggregate"]),
    trap(Mutation::DropVersions, "models gone that are trained on", "buffered", &["announced", "versions"]),
    trap(Mutation::DeafToProgress, "slow taken for stuck", "slow", &["stragglers"]),
];

/// Seeds that are tried until a defect shows.
const TRIES: u64 = 120;

/// Plants the defect in runs of an algorithm: the first seed at which an invariant finds it, and which.
pub fn spring(trap: &Trap, algorithm: &str) -> Option<(u64, &'static str)> {
    let profile = Profile::named(trap.profile)?;
    (0..TRIES).find_map(|seed| {
        let schedule = Schedule { mutation: trap.mutation, ..profile.schedule(algorithm, seed) };
        Some((seed, run(&schedule).ok()?.violation?.invariant))
    })
}
