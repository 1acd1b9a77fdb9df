//! A coordinator and three workers as processes that a test may kill, stop and start again on the same
//! port and folders.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    reason = "helpers of tests; each file uses a part"
)]

use serde_json::Value;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Workers of every fleet.
pub(crate) const WORKERS: usize = 3;
/// A child that has not done what it must after so long is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The processes; killed when dropped.
pub(crate) struct Fleet {
    pub(crate) folder: tempfile::TempDir,
    port: u16,
    tls: bool,
    pub(crate) coordinator: Option<Child>,
    pub(crate) workers: [Option<Child>; WORKERS],
}

fn starling() -> Command {
    Command::new(env!("CARGO_BIN_EXE_starling"))
}

/// Milliseconds since 1970, as events carry them.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Waits until something is there.
pub(crate) fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = there() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a process whose log passes through a pipe, so that a limit on its files does not end the log.
pub(crate) fn spawn(mut command: Command, log: &Path) -> Child {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut from = child.stderr.take().unwrap();
    let mut to = OpenOptions::new().create(true).append(true).open(log).unwrap();
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    child
}

/// Sends SIGTERM and gives the end.
pub(crate) fn terminate(mut child: Child) -> ExitStatus {
    signal(&child, rustix::process::Signal::TERM);
    until("the end after SIGTERM", || child.try_wait().unwrap())
}

pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Fleet {
    /// Folders, configurations and, with TLS, an authority; nothing runs yet.
    pub(crate) fn new(tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let fleet = Self { folder, port, tls, coordinator: None, workers: [const { None }; WORKERS] };
        let root = fleet.folder.path().display();
        let data = "[data.digits]\nkind = \"digits\"\ntrain = 600\ntest = 100\n";
        let how = if tls {
            let made = starling().args(["ca", "init", "--dir"]).arg(fleet.path("ca")).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            format!("[tls]\nauthority = \"{root}/ca/authority.pem\"\n")
        } else {
            String::new()
        };
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\nplaintext = {}\nthreads = 1\ndata_dir = \"{root}/coordinator\"\n\
             {how}{data}",
            !tls
        );
        fs::write(fleet.path("coordinator.toml"), text).unwrap();
        for index in 0..WORKERS {
            let name = worker_name(index);
            let text = format!(
                "name = \"{name}\"\ncoordinator = \"{}\"\nstate_dir = \"{root}/{name}\"\nthreads = 1\n\
                 share = {{ index = {index}, of = {WORKERS} }}\n{data}",
                fleet.url()
            );
            fs::write(fleet.path(&format!("{name}.toml")), text).unwrap();
        }
        fleet
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls { "https" } else { "http" }, self.port)
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Starts the coordinator and waits until it answers.
    pub(crate) fn start_coordinator(&mut self) {
        let mut command = starling();
        command.arg("coordinator").arg("--config").arg(self.path("coordinator.toml"));
        command.args(["--page", "127.0.0.1:0", "--page-address-file"]).arg(self.path("page"));
        self.start_coordinator_as(command);
    }

    pub(crate) fn start_coordinator_as(&mut self, command: Command) {
        self.coordinator = Some(spawn(command, &self.path("coordinator.log")));
        let log = self.path("coordinator.log");
        until("an answer of the coordinator", || {
            let status = self.coordinator.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(status, None, "{}", fs::read_to_string(&log).unwrap());
            self.ask(&["run", "list"]).ok()
        });
    }

    /// Starts a worker; it enrols if it has no identity yet.
    pub(crate) fn start_worker(&mut self, index: usize) {
        let name = worker_name(index);
        let mut command = starling();
        command.arg("worker").arg("--config").arg(self.path(&format!("{name}.toml")));
        let identity = self.path(&name).join("identity.pem");
        if self.tls && !identity.exists() {
            let made = self.ask(&["token", "create", "--name", &name]).unwrap();
            command.env("STARLING__TOKEN", made[0]["token"].as_str().unwrap());
        }
        self.workers[index] = Some(spawn(command, &self.path(&format!("{name}.log"))));
        if self.tls {
            until("the worker's certificate", || identity.exists().then_some(()));
        }
    }

    pub(crate) fn start(&mut self) {
        self.start_coordinator();
        (0..WORKERS).for_each(|index| self.start_worker(index));
    }

    pub(crate) fn kill_coordinator(&mut self) {
        kill(&mut self.coordinator);
    }

    pub(crate) fn kill_worker(&mut self, index: usize) {
        kill(&mut self.workers[index]);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = starling();
        command.args(args).args(["--json", "--coordinator", &self.url()]);
        if self.tls {
            command.arg("--identity").arg(self.path("ca/operator.pem"));
        }
        command
    }

    /// What a command prints, one object a line.
    pub(crate) fn ask(&self, args: &[&str]) -> Result<Vec<Value>, String> {
        let output = self.command(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// What the coordinator's page answers for a path: its body.
    pub(crate) fn page(&self, path: &str) -> String {
        let address = fs::read_to_string(self.path("page")).unwrap();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {reply}");
        body.to_owned()
    }

    /// Submits a run of so many rounds of SCAFFOLD with so many steps each.
    pub(crate) fn submit(&self, rounds: u64, steps: u64) -> String {
        let text = format!(
            "name = \"crash\"\nrounds = {rounds}\nseed = 11\nmodel = {{ kind = \"mlp\", hidden = [32] }}\n\
             data = {{ name = \"digits\", partition = {{ kind = \"dirichlet\", alpha = 0.5 }} }}\n\
             algorithm = {{ kind = \"scaffold\" }}\nlocal = {{ steps = {steps}, batch = 20, lr = 0.05 }}\n\
             cohort = {{ min_workers = {WORKERS}, min_updates = {WORKERS}, rejoin_s = 120 }}\n\
             average = {{ ema = {{ decay = 0.7 }}, swa = {{ start = 1 }} }}\n"
        );
        let file = self.path("run.toml");
        fs::write(&file, text).unwrap();
        let made = self.ask(&["run", "submit", file.to_str().unwrap()]).unwrap();
        made[0]["id"].as_str().unwrap().to_owned()
    }

    /// Follows a run in a process of its own that ends with the run.
    pub(crate) fn watch(&self, run: &str) -> Child {
        let out = File::create(self.path("events.jsonl")).unwrap();
        let err = File::create(self.path("watch.log")).unwrap();
        self.command(&["run", "watch", run]).stdout(out).stderr(err).spawn().unwrap()
    }

    /// Every event of a run that has ended.
    pub(crate) fn events(&self, run: &str) -> Vec<Value> {
        self.ask(&["run", "watch", run]).unwrap()
    }

    /// Events so far of a run that is being watched.
    pub(crate) fn watched(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("events.jsonl")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The lines of the metrics of a run.
    pub(crate) fn metrics(&self, run: &str) -> Vec<Value> {
        self.ask(&["run", "show", run]).unwrap()[0]["metrics"].as_array().unwrap().clone()
    }

    /// The model's digest after every round.
    pub(crate) fn digests(&self, run: &str) -> Vec<String> {
        let of = |line: &Value| line["model_digest"].as_str().unwrap().to_owned();
        self.metrics(run).iter().map(of).collect()
    }

    /// The model's digest after every round, and those of the run's averages at its end.
    pub(crate) fn results(&self, run: &str) -> Vec<String> {
        let averages = ["ema", "swa"].map(|name| {
            let file = self.path(&format!("{name}.safetensors"));
            let to = file.to_str().unwrap();
            let exported = self.ask(&["run", "export", run, "--average", name, "--to", to]).unwrap();
            assert_eq!(exported[0]["average"], name);
            exported[0]["digest"].as_str().unwrap().to_owned()
        });
        self.digests(run).into_iter().chain(averages).collect()
    }

    /// Whether the coordinator has a session with a worker.
    pub(crate) fn is_connected(&self, index: usize) -> bool {
        let all = self.ask(&["worker", "list"]).unwrap_or_default();
        all.iter().any(|worker| worker["name"] == worker_name(index).as_str() && worker["connected"] == true)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(kill);
        kill(&mut self.coordinator);
        if std::thread::panicking() {
            for name in ["coordinator", "worker-1", "worker-2", "worker-3", "watch"] {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}

pub(crate) fn worker_name(index: usize) -> String {
    format!("worker-{}", index + 1)
}

/// The results of an undisturbed run.
pub(crate) fn undisturbed(tls: bool, rounds: u64, steps: u64) -> Vec<String> {
    let mut fleet = Fleet::new(tls);
    fleet.start();
    let run = fleet.submit(rounds, steps);
    let start = Instant::now();
    fleet.events(&run);
    let results = fleet.results(&run);
    let distinct: std::collections::BTreeSet<&String> = results.iter().collect();
    assert_eq!(distinct.len() as u64, rounds + 2, "every round and average has a digest of its own");
    let last = fleet.metrics(&run).pop().unwrap();
    for name in ["ema", "swa"] {
        assert!(last["averages"][name]["eval_accuracy"].as_f64().is_some(), "{last}");
    }
    println!("undisturbed: {rounds} rounds in {:.1} s", start.elapsed().as_secs_f64());
    results
}
