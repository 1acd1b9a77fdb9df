//! One scene: a coordinator, workers and an operator on a simulated network, driven to the run's end.

use crate::{
    network::{Cable, PORT, Port},
    schedule::{Fault, Schedule, Step, WORKERS},
};
use identity::{Authority, Bundle, Role, Validity};
use proto::event::{Metrics, RunEvent};
use starling_tests::{
    host::{DATA, Host, digits},
    memory_dir,
    operator::Operator,
    toy::Toy,
};
use std::{
    future::pending,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use turmoil::Sim;
use worker::access::Route;

pub(crate) const COORDINATOR: &str = "coordinator";
pub(crate) const OPERATOR: &str = "operator";
/// Hosts run so long before the network moves again.
const TICK: Duration = Duration::from_millis(2);
/// A message takes between these, mostly little.
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(40));
const SLOW: Duration = Duration::from_millis(1_500);
/// A run must have finished so long after the last fault: the longest backoff (10 s), a transfer that is
/// found stalled (20 s) and the rounds that are left.
const BOUND_MS: u64 = 90_000;
/// No scene lasts longer.
const END: Duration = Duration::from_mins(10);

/// What the operator saw.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<RunEvent>,
    pub(crate) metrics: Vec<Metrics>,
    /// Faults that began before the run was over.
    pub(crate) played: Vec<Step>,
    /// Virtual time of the run's end, from its submission.
    pub(crate) seconds: f64,
}

/// The same while it is seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) run: Option<String>,
    pub(crate) events: Vec<RunEvent>,
    pub(crate) metrics: Vec<Metrics>,
}

pub(crate) type Shared = Arc<Mutex<Seen>>;

/// Plays a scene to the run's end.
///
/// # Errors
/// Why it did not come to it, with the schedule and the last events.
pub(crate) fn play(schedule: &Schedule) -> Result<Outcome, String> {
    let dir = memory_dir();
    let seen = Shared::default();
    let mut sim = turmoil::Builder::new()
        .rng_seed(schedule.seed)
        .epoch(UNIX_EPOCH)
        .tick_duration(TICK)
        .simulation_duration(END)
        .min_message_latency(LATENCY.0)
        .max_message_latency(LATENCY.1)
        .tcp_capacity(1 << 16)
        .build();
    people(&mut sim, &dir, schedule, &seen)?;
    let explain = |why: &str, at: u64| {
        let seen = seen.lock().expect("nobody panicked with it");
        let head = format!("seed {} ({:?}), {at} ms after submission: {why}", schedule.seed, schedule.pace);
        let first = seen.events.len().saturating_sub(30);
        let steps = schedule.steps.iter().map(|step| format!("  {step}"));
        let events = seen.events[first..].iter().map(|event| format!("  {event:?}"));
        [head].into_iter().chain(steps).chain(events).collect::<Vec<_>>().join("\n")
    };
    let (mut submitted, mut waiting, mut running) = (None, schedule.steps.clone(), Vec::<Step>::new());
    let mut played = Vec::new();
    let last = |at: u64| at > schedule.healed() + BOUND_MS;
    loop {
        let now = sim.elapsed().as_millis() as u64;
        if submitted.is_none() && seen.lock().expect("nobody panicked with it").run.is_some() {
            submitted = Some(now);
        }
        let at = submitted.map_or(0, |submitted| now - submitted);
        if submitted.is_some() {
            running.retain(|step| step.until > at || mend(&mut sim, *step));
            while waiting.first().is_some_and(|step| step.from <= at) {
                let step = waiting.remove(0);
                break_(&mut sim, step);
                running.push(step);
                played.push(step);
            }
        }
        match sim.step() {
            Ok(false) if last(at) => return Err(explain("the run did not finish after the last fault", at)),
            Ok(false) => {}
            Ok(true) => {
                let seen = std::mem::take(&mut *seen.lock().expect("nobody panicked with it"));
                let Seen { events, metrics, .. } = seen;
                return Ok(Outcome { events, metrics, played, seconds: at as f64 / 1e3 });
            }
            Err(error) => return Err(explain(&error.to_string(), at)),
        }
    }
}

fn name(worker: usize) -> String {
    format!("worker-{worker}")
}

fn break_(sim: &mut Sim<'_>, Step { worker, fault, .. }: Step) {
    let worker = name(worker);
    match fault {
        Fault::Partition => sim.partition(worker, COORDINATOR),
        Fault::Mute => sim.partition_oneway(worker, COORDINATOR),
        Fault::Deaf => sim.partition_oneway(COORDINATOR, worker),
        Fault::Hold => sim.hold(worker, COORDINATOR),
        Fault::Slow => sim.set_link_max_message_latency(worker, COORDINATOR, SLOW),
        Fault::Crash => sim.crash(worker),
        Fault::CoordinatorCrash => sim.crash(COORDINATOR),
    }
}

/// Ends a fault; false, since it need not be kept.
fn mend(sim: &mut Sim<'_>, Step { worker, fault, .. }: Step) -> bool {
    let worker = name(worker);
    match fault {
        Fault::Partition => sim.repair(worker, COORDINATOR),
        Fault::Mute => sim.repair_oneway(worker, COORDINATOR),
        Fault::Deaf => sim.repair_oneway(COORDINATOR, worker),
        Fault::Hold => sim.release(worker, COORDINATOR),
        Fault::Slow => sim.set_link_max_message_latency(worker, COORDINATOR, LATENCY.1),
        Fault::Crash => sim.bounce(worker),
        Fault::CoordinatorCrash => sim.bounce(COORDINATOR),
    }
    false
}

/// Who takes part, and with TLS, by which certificates.
fn people(sim: &mut Sim<'_>, dir: &TempDir, schedule: &Schedule, seen: &Shared) -> Result<(), String> {
    let root = dir.path().to_owned();
    let mut config =
        coordinator::Config { data_dir: root.join(COORDINATOR), ..coordinator::Config::default() };
    let mut route = plain();
    let url = format!("{}://{COORDINATOR}:{PORT}", if schedule.tls { "https" } else { "http" });
    let authority = if schedule.tls { Some(authority(&root, &mut config)?) } else { None };
    let issue = |role, name: &str| -> Result<Option<Bundle>, String> {
        let Some(authority) = &authority else { return Ok(None) };
        Bundle::issue(authority, role, name, (&[], a_day())).map(Some).map_err(|error| error.to_string())
    };
    serve(sim, config);
    for worker in 0..WORKERS {
        let name = name(worker);
        let config = worker_config(&root, &name, &url);
        if let Some(bundle) = issue(Role::Worker, &name)? {
            std::fs::create_dir_all(&config.state_dir).map_err(|error| error.to_string())?;
            bundle.save(&config.identity_file()).map_err(|error| error.to_string())?;
        }
        work(sim, config);
    }
    if let Some(bundle) = issue(Role::Operator, OPERATOR)? {
        route = Route::known(&url, Arc::new(Cable), &bundle)?.0;
    }
    sim.client(OPERATOR, operate(route, schedule.spec(), Arc::clone(seen)));
    Ok(())
}

/// A coordinator, as a host that may crash.
pub(crate) fn serve(sim: &mut Sim<'_>, config: coordinator::Config) {
    sim.host(COORDINATOR, move || {
        let config = config.clone();
        async move {
            coordinator::serve(config, Arc::new(Host), Port::bind().await?, pending()).await?;
            Ok(())
        }
    });
}

/// The configuration of a worker that trains a toy.
pub(crate) fn worker_config(root: &Path, name: &str, url: &str) -> worker::Config {
    let mut config = worker::Config::new(name.parse().expect("a worker's name"));
    url.clone_into(&mut config.coordinator);
    config.insecure = !config.is_encrypted();
    config.state_dir = root.join(name);
    config.datasets.insert(DATA.to_owned(), digits());
    config
}

/// A worker, as a host that may crash.
pub(crate) fn work(sim: &mut Sim<'_>, config: worker::Config) {
    sim.host(config.name.to_string(), move || {
        let config = config.clone();
        async move {
            worker::run_on(config, Box::new(Toy::default()), Arc::new(Cable), pending()).await?;
            Ok(())
        }
    });
}

/// Where everybody finds the coordinator that serves in clear.
pub(crate) fn plain_url() -> String {
    format!("http://{COORDINATOR}:{PORT}")
}

/// A way to it.
pub(crate) fn plain() -> Route {
    Route::plain(&plain_url(), Arc::new(Cable))
}

fn a_day() -> Validity {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Validity::lasting(now.as_secs(), 24 * 3600)
}

fn authority(root: &Path, config: &mut coordinator::Config) -> Result<Authority, String> {
    let authority = Authority::create("ring", a_day()).map_err(|error| error.to_string())?;
    let file = root.join("authority.pem");
    authority.save(&file).map_err(|error| error.to_string())?;
    let mut tls = coordinator::Tls::new(file);
    tls.hosts = vec![COORDINATOR.to_owned()];
    config.tls = Some(tls);
    Ok(authority)
}

/// Submits, and follows the run to its end over every restart of the coordinator.
pub(crate) async fn operate(route: Route, spec: String, seen: Shared) -> turmoil::Result {
    let channel = route.endpoint()?.connect_with_connector_lazy(route.connector());
    let mut operator = Operator::over(channel);
    while !operator.is_up().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let run = operator.submit(&spec).await;
    seen.lock().expect("nobody panicked with it").run = Some(run.clone());
    let mut events = Vec::new();
    loop {
        let followed = operator.follow(&run, &mut events, &RunEvent::is_last).await;
        seen.lock().expect("nobody panicked with it").events.clone_from(&events);
        match followed {
            Ok(true) => break,
            Ok(false) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    loop {
        if let Ok(metrics) = operator.try_metrics(&run).await {
            seen.lock().expect("nobody panicked with it").metrics = metrics;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
