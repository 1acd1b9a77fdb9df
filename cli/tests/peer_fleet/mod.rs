//! Peers as processes that a test may kill and start again, on this machine or each in a network namespace
//! of its own.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests; each file uses a part")]

use serde_json::Value;
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Everything is over by then, or stuck; a busy machine is given much time.
pub(crate) const LIMIT: Duration = Duration::from_mins(4);

pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    pub(crate) addresses: Vec<String>,
    /// What their certificates call them.
    pub(crate) names: Vec<String>,
    children: Vec<Option<Child>>,
    /// Namespaces of the peers and of whoever asks them; `None`: all are on this machine.
    inside: Option<(Vec<String>, String)>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn starling(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(args);
    command
}

/// The program in a network namespace.
fn starling_in(namespace: Option<&str>, args: &[&str]) -> Command {
    let Some(namespace) = namespace else { return starling(args) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_starling")]).args(args);
    command
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Fleet {
    pub(crate) fn start(run: &str, peers: usize) -> Self {
        Self::start_named(run, (0..peers).map(|index| format!("peer-{index}")).collect())
    }

    pub(crate) fn start_named(run: &str, names: Vec<String>) -> Self {
        let peers = names.len();
        let held: Vec<TcpListener> = (0..peers).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = held.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        drop(held);
        Self::start_at(run, (names, addresses), None)
    }

    /// Peers of these names at these addresses, each in its namespace if there are such.
    pub(crate) fn start_at(
        run: &str,
        (names, addresses): (Vec<String>, Vec<String>),
        inside: Option<(Vec<String>, String)>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca");
        assert!(starling(&["ca", "init", "--dir", text(&ca)]).output().unwrap().status.success());
        std::fs::write(folder.path().join("run.toml"), run).unwrap();
        let children = addresses.iter().map(|_| None).collect();
        let mut fleet = Self { folder, addresses, names, children, inside };
        for index in 0..fleet.addresses.len() {
            fleet.configure(index);
            fleet.launch(index);
        }
        fleet
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, index: usize) {
        let (name, to) = (&self.names[index], self.path(&format!("peer-{index}.pem")));
        let ca = self.path("ca");
        let args = ["ca", "peer", "--dir", text(&ca), "--name", name, "--to", text(&to)];
        assert!(starling(&args).output().unwrap().status.success());
        let of = self.children.len();
        let config = format!(
            "name = \"{name}\"\nrun = \"{}\"\nlisten = \"{}\"\nbootstrap = [\"{}\", \"{}\"]\nidentity = \"{}\"\n\
             state_dir = \"{}\"\nthreads = 1\n[share]\nindex = {index}\nof = {of}\n\
             [data.digits]\nkind = \"digits\"\ntrain = 800\ntest = 160\nseed = 1\n",
            text(&self.path("run.toml")),
            self.addresses[index],
            self.addresses[0],
            self.addresses[1],
            text(&to),
            text(&self.path(name)),
        );
        std::fs::write(self.path(&format!("peer-{index}.toml")), config).unwrap();
    }

    pub(crate) fn launch(&mut self, index: usize) {
        let config = self.path(&format!("peer-{index}.toml"));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&format!("peer-{index}.log")))
            .unwrap();
        let inside = self.inside.as_ref().map(|(peers, _)| peers[index].as_str());
        let args = ["peer", "--config", text(&config), "--until-stdin-closes"];
        let mut command = starling_in(inside, &args);
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        self.children[index] = Some(command.spawn().unwrap());
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, index: usize) {
        let mut child = self.children[index].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn ask(&self, args: &[&str], index: usize) -> Option<Value> {
        let identity = self.path("ca/operator.pem");
        let inside = self.inside.as_ref().map(|(_, asker)| asker.as_str());
        let mut command = starling_in(inside, &[&["peer"], args].concat());
        command.args(["--peer", &self.addresses[index], "--identity", text(&identity), "--json"]);
        let output = command.output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub(crate) fn status(&self, index: usize) -> Option<Value> {
        self.ask(&["status"], index)
    }

    /// Waits until `of` says yes to the status of a peer.
    pub(crate) fn wait(&self, index: usize, what: &str, of: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status(index);
            if let Some(status) = status.as_ref().filter(|status| of(status)) {
                return status.clone();
            }
            if began.elapsed() > LIMIT {
                let log = std::fs::read_to_string(self.path(&format!("peer-{index}.log"))).unwrap();
                panic!("peer-{index}: {what}: {status:?}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub(crate) fn model(&self, index: usize) -> Vec<f32> {
        let to = self.path(&format!("z-{index}.safetensors"));
        self.ask(&["export", "--to", text(&to), "--force"], index).unwrap();
        let bytes = std::fs::read(to).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> = tensors.tensors();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let values = all.iter().flat_map(|(_, view)| view.data().as_chunks::<4>().0.to_vec());
        values.map(f32::from_le_bytes).collect()
    }
}

pub(crate) fn live(status: &Value) -> usize {
    status["members"].as_array().unwrap().iter().filter(|member| member["live"] == true).count()
}

/// How far the models are from their mean at most, and how long that is.
pub(crate) fn apart(models: &[Vec<f32>]) -> (f64, f64) {
    let mean = |k: usize| models.iter().map(|model| f64::from(model[k])).sum::<f64>() / models.len() as f64;
    let mean: Vec<f64> = (0..models[0].len()).map(mean).collect();
    let norm = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    let off = |model: &Vec<f32>| {
        model.iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum::<f64>().sqrt()
    };
    (models.iter().map(off).fold(0.0, f64::max), norm)
}
