//! Sockets, clocks and threads around the session machine.
//!
//! One task drives the machine; one holds the connection; one works on jobs. All of them end with the
//! driver. Nothing here decides anything: what an event means is the machine's business.

mod connection;
mod health;
mod jobs;
mod report;
#[cfg(test)]
mod tests;

use crate::{
    Config, WorkerError,
    access::{self, Membership, Route},
    client_state::States,
    ledger::Ledgers,
    session::{Action, Event, JobId, Level, Session, Time, Token},
    trainer::{EngineTrainer, Train},
    transfer::{Line, Live, channel},
};
use identity::{Dial, Tcp};
use jobs::{Account, Jobs, Order};
use proto::{limits::SESSION_QUEUE, v1::WorkerMessage};
use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A stopping worker waits so long for the step that is being computed and the state that is being
/// written.
const GRACE: Duration = Duration::from_secs(10);
/// Events of tasks that wait for the machine.
const EVENTS: usize = 64;

/// An event, and the connection that it comes from if it comes from one.
type Tagged = (Option<u64>, Event);

/// Serves a coordinator with the training engine until `shutdown` completes.
///
/// # Errors
/// If the configuration or the state directory cannot be used, or the coordinator and this program
/// cannot work together. A coordinator that cannot be reached is no error: the worker keeps trying.
pub async fn run_with_engine(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
    let trainer = Box::new(EngineTrainer::new(&config));
    run(config, trainer, shutdown).await
}

/// Serves a coordinator with any trainer until `shutdown` completes.
///
/// # Errors
/// As for [`run_with_engine`].
pub async fn run(
    config: Config,
    trainer: Box<dyn Train>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    run_on(config, trainer, Arc::new(Tcp), shutdown).await
}

/// As [`run`], over sockets from somewhere else than the operating system.
///
/// # Errors
/// As for [`run_with_engine`].
pub async fn run_on(
    config: Config,
    trainer: Box<dyn Train>,
    dial: Arc<dyn Dial>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    config.check()?;
    let states = States::open(&config.state_dir, &config.name)?;
    let account = Account::new(Ledgers::open(&config.state_dir)?, config.budgets.clone());
    let (line, listening) = watch::channel(None);
    let _health = match config.health {
        Some(address) => Some(health::serve(address, listening.clone()).await?),
        None => None,
    };
    let mut shutdown = pin!(shutdown);
    let membership = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(()),
        joined = access::join(&config, dial) => joined?,
    };
    let route = membership.route.clone();
    let _renewing = AbortOnDropHandle::new(tokio::spawn(Membership::keep(membership)));
    let config = Arc::new(config);
    let (events, inbox) = mpsc::channel(EVENTS);
    let (orders, received) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let jobs = Jobs::new(config.name.clone(), Line(listening), trainer, (states, account));
    tasks.spawn(jobs.serve(received, events.clone()));
    let session = Session::new(&config.name);
    let mut driver = Driver {
        config,
        route,
        session,
        line,
        events,
        orders,
        tasks,
        connection: None,
        opened: 0,
        job: None,
        timers: BTreeSet::new(),
        own: VecDeque::from([Event::Start]),
        began: Instant::now(),
    };
    let result = driver.drive(inbox, &mut shutdown).await;
    driver.finish().await;
    result
}

struct Connection {
    id: u64,
    out: mpsc::Sender<WorkerMessage>,
    task: AbortHandle,
}

struct Driver {
    config: Arc<Config>,
    route: Route,
    session: Session,
    line: watch::Sender<Option<Live>>,
    events: mpsc::Sender<Tagged>,
    orders: mpsc::Sender<Order>,
    tasks: JoinSet<()>,
    connection: Option<Connection>,
    /// Connections opened so far.
    opened: u64,
    job: Option<(JobId, CancellationToken)>,
    timers: BTreeSet<(Time, Token)>,
    /// Events that actions led to at once.
    own: VecDeque<Event>,
    began: Instant,
}

impl Driver {
    async fn drive(
        &mut self,
        mut inbox: mpsc::Receiver<Tagged>,
        shutdown: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<(), WorkerError> {
        loop {
            while let Some(event) = self.own.pop_front() {
                for action in self.session.handle(event, self.began.elapsed()) {
                    if let Action::Exit(result) = action {
                        let coordinator = self.config.coordinator.clone();
                        return result.map_err(|detail| WorkerError::Refused { coordinator, detail });
                    }
                    self.perform(action);
                }
            }
            let timer = self.timers.first().copied();
            let due = self.began + timer.map_or(Duration::ZERO, |(at, _)| at);
            // Messages before timers: a coordinator whose sign of life has arrived is not dead.
            let event = tokio::select! {
                biased;
                () = &mut *shutdown => Event::Stop,
                Some((from, event)) = inbox.recv() => {
                    if from.is_some() && from != self.connection.as_ref().map(|connection| connection.id) {
                        continue;
                    }
                    event
                }
                () = sleep_until(due), if timer.is_some() => match self.timers.pop_first() {
                    Some((_, token)) => Event::Fired(token),
                    None => continue,
                },
                Some(ended) = self.tasks.join_next() => {
                    sound(ended)?;
                    continue;
                }
            };
            self.own.push_back(event);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Connect => self.connect(),
            Action::Disconnect => {
                self.line.send_replace(None);
                if let Some(connection) = self.connection.take() {
                    connection.task.abort();
                }
            }
            Action::Up => self.up(),
            Action::Send(say) => {
                let message = connection::wire(&say, &self.config);
                if let Some(connection) = &self.connection
                    && connection.out.try_send(message).is_err()
                {
                    self.own.push_back(Event::Lost("it takes no messages any more".into()));
                }
            }
            Action::Arm { token, at } => {
                self.timers.insert((at, token));
            }
            Action::Begin(id, work) => {
                let cancel = CancellationToken::new();
                self.job = Some((id, cancel.clone()));
                if self.orders.try_send(Order { id, work, cancel }).is_err() {
                    tracing::error!("a second job was begun before the first had ended");
                }
            }
            Action::Cancel(id) => {
                if let Some((_, cancel)) = self.job.as_ref().filter(|(running, _)| *running == id) {
                    cancel.cancel();
                }
            }
            Action::Log(Level::Info, text) => {
                tracing::info!(coordinator = self.config.coordinator, "{text}");
            }
            Action::Log(Level::Warn, text) => {
                tracing::warn!(coordinator = self.config.coordinator, "{text}");
            }
            Action::Exit(_) => {}
        }
    }

    fn connect(&mut self) {
        self.opened += 1;
        let id = self.opened;
        let (out, queue) = mpsc::channel(SESSION_QUEUE);
        let task = self.tasks.spawn(connection::hold(self.route.clone(), queue, self.events.clone(), id));
        self.connection = Some(Connection { id, out, task });
    }

    fn up(&mut self) {
        let Some(connection) = &self.connection else { return };
        match channel::vectors(&self.route) {
            Ok(vectors) => {
                self.line.send_replace(Some(Live { vectors, out: connection.out.clone() }));
            }
            Err(error) => self.own.push_back(Event::Lost(error.to_string())),
        }
    }

    /// Lets the running job come to its end: it was cancelled, or writes client state.
    async fn finish(self) {
        let Self { orders, events, line, mut tasks, .. } = self;
        drop((orders, events, line));
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            tracing::warn!("a training step did not end within {} s", GRACE.as_secs());
        }
    }
}

/// A task ended: aborted or done is as it should be, a panic is a bug.
fn sound(ended: Result<(), JoinError>) -> Result<(), WorkerError> {
    match ended {
        Err(error) if error.is_panic() => Err(WorkerError::Internal(error.to_string())),
        _ => Ok(()),
    }
}
