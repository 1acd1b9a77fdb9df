//! The disk under a coordinator: it fails and is mended, and what is on it is damaged or not ours.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod fleet;

use fleet::{Fleet, WORKERS, spawn, terminate, undisturbed, until};
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const ROUNDS: u64 = 6;
const STEPS: u64 = 1_000;

/// A coordinator's command to whose files a limit may be set: by default a process that exceeds it dies.
fn limited(fleet: &Fleet, before: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("trap '' XFSZ; {before} exec \"$0\" coordinator --config \"$1\"")]);
    command.arg(env!("CARGO_BIN_EXE_starling")).arg(fleet.path("coordinator.toml"));
    command
}

/// Sets the largest size of a file that a process may write to.
fn limit_files(id: u32, soft: &str) {
    let set = Command::new("prlimit").args(["--pid", &id.to_string(), &format!("--fsize={soft}:")]).status();
    let set = set.expect("this test needs prlimit, which is in the package util-linux");
    assert!(set.success(), "prlimit: {set}");
}

fn health(url: &str) -> Option<ServingStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = tonic::transport::Channel::from_shared(url.to_owned()).unwrap().connect().await.ok()?;
        let request = HealthCheckRequest { service: "starling.v1.Fleet".into() };
        Some(HealthClient::new(channel).check(request).await.ok()?.into_inner().status())
    })
}

fn await_health(fleet: &Fleet, status: ServingStatus) -> f64 {
    let start = Instant::now();
    until(&format!("health {status:?}"), || (health(&fleet.url()) == Some(status)).then_some(()));
    start.elapsed().as_secs_f64()
}

#[test]
fn a_disk_that_fails_and_is_mended_loses_nothing() {
    let want = undisturbed(false, ROUNDS, STEPS);
    let mut fleet = Fleet::new(false);
    let command = limited(&fleet, "");
    fleet.start_coordinator_as(command);
    (0..WORKERS).for_each(|index| fleet.start_worker(index));
    let run = fleet.submit(ROUNDS, STEPS);
    let mut watch = fleet.watch(&run);
    let id = fleet.coordinator.as_ref().unwrap().id();
    for time in 1..=2 {
        let committed = || fleet.watched().iter().filter(|event| event["event"] == "round_committed").count();
        until("a round", || (committed() >= time).then_some(()));
        // No byte can be written to any file.
        limit_files(id, "0");
        let noticed = await_health(&fleet, ServingStatus::NotServing);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(health(&fleet.url()), Some(ServingStatus::NotServing));
        limit_files(id, "unlimited");
        let mended = await_health(&fleet, ServingStatus::Serving);
        println!("a failing disk was noticed after {noticed:.1} s, a mended one after {mended:.1} s");
    }
    let ended = until("the end of the run", || watch.try_wait().unwrap());
    assert!(ended.success(), "{}", fleet.log("watch"));
    let log = fleet.log("coordinator");
    assert!(log.contains("the store failed") && log.contains("File too large"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(fleet.results(&run), want);
    assert!(
        fleet.metrics(&run).iter().all(|line| line["eval_accuracy"].is_f64()),
        "{:?}",
        fleet.metrics(&run)
    );
    let events = fleet.events(&run);
    let status = terminate(fleet.coordinator.take().unwrap());
    assert_eq!(status.code(), Some(0));
    fleet.start_coordinator();
    assert_eq!(fleet.events(&run), events, "what was told is on the disk");
}

/// The exit code and the log of a coordinator that must not start.
fn refused(fleet: &Fleet, before: &str) -> String {
    let log = fleet.path("refused.log");
    let _ = fs::remove_file(&log);
    let mut child = spawn(limited(fleet, before), &log);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it was not refused: {}", fleet.log("refused"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // The thread that copies the log may be behind.
    std::thread::sleep(Duration::from_millis(100));
    let text = fleet.log("refused");
    assert!(status.code().is_some_and(|code| code != 0), "{status}: {text}");
    assert!(text.contains("error: ") && !text.contains("panicked"), "{text}");
    text
}

/// Writes a file with every n-th byte changed.
fn damage(file: &Path, from: usize, every: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes.iter_mut().skip(from).step_by(every).for_each(|byte| *byte ^= 0x55);
    fs::write(file, bytes).unwrap();
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let mut fleet = Fleet::new(false);
    fleet.start_coordinator();
    fleet.submit(3, 1);
    assert_eq!(terminate(fleet.coordinator.take().unwrap()).code(), Some(0));
    let dir = fleet.path("coordinator");
    let database = dir.join("starling.redb");
    let whole = fs::read(&database).unwrap();

    for (from, every) in [(0, 1_000_000_000), (64, 512), (4_096, 512), (0, 97)] {
        damage(&database, from, every);
        let text = refused(&fleet, "");
        assert!(text.contains("starling.redb cannot be opened"), "{from} {every}: {text}");
        fs::write(&database, &whole).unwrap();
    }
    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    assert!(refused(&fleet, "").contains("starling.redb cannot be opened"));
    fs::write(&database, &whole).unwrap();

    let vector = fs::read_dir(dir.join("vectors")).unwrap().next().unwrap().unwrap().path();
    let values = fs::read(&vector).unwrap();
    damage(&vector, 17, 1_000_000_000);
    let text = refused(&fleet, "");
    assert!(text.contains("is damaged") && text.contains(vector.to_str().unwrap()), "{text}");
    fs::remove_file(&vector).unwrap();
    assert!(refused(&fleet, "").contains("cannot be opened: No such file"));
    fs::write(&vector, values).unwrap();

    // Mended, it starts.
    fleet.start_coordinator();
    assert_eq!(terminate(fleet.coordinator.take().unwrap()).code(), Some(0));

    let with = |dir: &str| format!("STARLING__DATA_DIR='{dir}'; export STARLING__DATA_DIR;");
    let foreign = fleet.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("holiday.jpg"), b"x").unwrap();
    let text = refused(&fleet, &with(foreign.to_str().unwrap()));
    assert!(text.contains("is not empty and holds no starling.redb"), "{text}");
    // A folder in which nobody, not even root, can make one.
    let text = refused(&fleet, &with("/proc/starling"));
    assert!(text.contains("/proc/starling") && text.contains("cannot be created"), "{text}");
    // A disk that takes no byte.
    let text = refused(&fleet, "ulimit -f 0;");
    assert!(text.contains("File too large"), "{text}");
    read_only(&fleet, &dir);
}

/// Root may write everywhere: where the test runs as root, permissions bind nobody.
fn read_only(fleet: &Fleet, dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let database = dir.join("starling.redb");
    set(&database, 0o400);
    if fs::OpenOptions::new().append(true).open(&database).is_ok() {
        println!("permissions do not bind this user: a read-only file was not tried");
    } else {
        assert!(refused(fleet, "").contains("Permission denied"));
    }
    set(&database, 0o600);
}
