//! A virtual worker: what its process has in memory, what its disk has, and what befell it.

use super::network::Upload;
use crate::{Millis, objective::Quadratic};
use worker::{
    client_state::{Durable, Pending},
    session::{JobId, Session, Work},
};

/// How the next training goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Well,
    /// It takes long, and says how far it is.
    Slow,
    /// It hangs.
    Stuck,
}

/// What a job does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Settle client state and decide.
    Begin,
    /// Local training goes on; it is done at that time.
    Working(Millis),
    /// Local training is done.
    Trained,
    /// Pay for the upload: half of the line is written.
    Pay,
    /// All of it is.
    Paid,
    /// Offer the upload.
    Offer,
    /// Evaluation is done.
    Scored,
    /// It is over.
    End,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) work: Work,
    /// What is offered until there is a verdict.
    pub(super) offered: Option<Box<Pending>>,
    pub(super) offers: u32,
    /// Offers in calm times, to a coordinator that could have answered.
    pub(super) ignored: u32,
    /// Its end is on its way.
    pub(super) over: bool,
}

/// A virtual worker.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Counts deaths.
    pub(super) life: u32,
    pub(super) connection: Option<u64>,
    /// Client state as the process has it, once a job has read it.
    pub(super) memory: Option<Durable>,
    /// Client state as the disk has it; kept after the end of the run, for the checks.
    pub(super) disk: Durable,
    /// The privacy ledger as the disk has it.
    pub(super) ledger: String,
    /// Local runs so far, each with a secret of its own.
    pub(super) keys: u64,
    /// What a lost disk had.
    pub(super) ghost: Option<Durable>,
    pub(super) disk_full_until: Millis,
    /// Cut off up and down until then.
    pub(super) blocked: [Millis; 2],
    pub(super) mood: Mood,
    /// Earlier uploads, of a worker that replays them.
    pub(super) sent: Vec<Upload>,
    pub(super) session: Option<Session>,
    pub(super) job: Option<Job>,
    pub(super) objective: Quadratic,
}

impl Node {
    pub(super) fn new(name: String, objective: Quadratic) -> Self {
        Self {
            name,
            life: 0,
            connection: None,
            memory: None,
            disk: Durable::default(),
            ledger: String::new(),
            keys: 0,
            ghost: None,
            disk_full_until: 0,
            blocked: [0; 2],
            mood: Mood::Well,
            sent: Vec::new(),
            session: None,
            job: None,
            objective,
        }
    }

    pub(super) fn die(&mut self) {
        self.life += 1;
        (self.session, self.connection, self.memory, self.job) = (None, None, None, None);
    }

    pub(super) fn remember(&mut self, upload: &Upload) {
        if self.sent.last().is_none_or(|last| last.header.round != upload.header.round) {
            self.sent.push(upload.clone());
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn state(&mut self) -> &mut Durable {
        self.memory.get_or_insert_with(|| self.disk.clone())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_connected)
    }
}
