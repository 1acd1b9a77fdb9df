//! The federation in one process, on a virtual clock and a hostile virtual network: what does the
//! protocol do when messages are lost, processes die, disks fail and workers lie, and is the model
//! still right afterwards?
//!
//! The decisions are the real ones: the coordinator's [`coordinator::machine::Machine`] and its vetting
//! ([`coordinator::vet`]), the worker's [`worker::session::Session`] with its backoff, heartbeats and
//! desk, the worker's client state ([`worker::client_state::Durable`]) and the rules of [`algorithms`].
//! Sockets, disks and threads are replaced by one queue of events in order of (time, sequence), and
//! training by a few steps on a quadratic, so that hundreds of runs under faults take seconds. Equal
//! schedules give equal bytes.
//!
//! What is not simulated: chunks of a transfer (an upload arrives whole or not at all), the collection
//! of old vectors, and damaged bytes on a disk.
//!
//! Real training with the same machine, thousands of clients and no faults is [`training`], and [`peers`]
//! without a coordinator; how good a
//! model is, is for [`evaluation`] to say.
//!
//! Reading order: [`Schedule`] and [`PROFILES`] (what goes wrong), `federation` (the loop),
//! `federation::serving` and `federation::working` (the two drivers, which mirror the real ones),
//! [`invariants`] (what must hold), [`TRAPS`] (proof that each can fail).

mod dice;
pub mod evaluation;
mod faults;
mod federation;
pub mod invariants;
mod mutation;
mod objective;
pub mod parallel;
pub mod peers;
mod profiles;
mod promise;
mod queue;
mod report;
mod schedule;
mod snapshot;
pub mod training;

pub use faults::{Faults, Vice};
pub use federation::run;
pub use mutation::{Mutation, TRAPS, Trap, spring};
pub use profiles::{PROFILES, Profile};
pub use promise::Promise;
pub use queue::Queue;
pub use report::{Committed, Incidents, Report, Violation};
pub use schedule::{Schedule, ScheduleError};

/// Milliseconds of virtual time.
pub type Millis = u64;

/// Every rule of the registry whose workers keep state between rounds and that can do without some of
/// them, by name.
pub fn stateful() -> Vec<&'static str> {
    those(|algorithm| algorithm.has_client_state())
}

/// Those of [`stateful`] whose server holds the mean of what workers keep: there a state that is lost,
/// doubled or out of date shows as such, in the balance of both.
pub fn mirroring() -> Vec<&'static str> {
    those(|algorithm| algorithm.has_client_state() && !algorithm.mirrored().is_empty())
}

fn those(wanted: impl Fn(&dyn algorithms::Algorithm) -> bool) -> Vec<&'static str> {
    let meets = |rule: &&algorithms::Rule| {
        let made = (rule.make)(&(rule.defaults)());
        made.is_ok_and(|algorithm| wanted(algorithm.as_ref()) && !algorithm.needs_everyone())
    };
    algorithms::rules::RULES.iter().filter(meets).map(|rule| rule.name).collect()
}
