//! A process that trains when asked: this program itself, or Python with PyTorch.

use super::cases::Case;
use crate::exit::{Code, Failure};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};
use tempfile::TempDir;

const STEP: &str = include_str!("../../../../deploy/pytorch/step.py");
const MODELS: &str = include_str!("../../../../deploy/pytorch/models.py");

/// Python, and the scripts where it finds them.
pub(super) struct Python {
    program: PathBuf,
    scripts: TempDir,
}

impl Python {
    /// Checks that PyTorch is there, before minutes of measuring.
    pub(super) fn new(program: &Path) -> Result<Self, Failure> {
        let found = Command::new(program).args(["-c", "import torch"]).output().map_err(|error| {
            Failure::new(Code::NotFound, format!("cannot start {}: {error}", program.display()))
        })?;
        if !found.status.success() {
            let text = format!(
                "{} cannot import torch; `pip install torch`, or name another one with --python",
                program.display()
            );
            return Err(Failure::new(Code::NotFound, text));
        }
        let cannot =
            |error: std::io::Error| Failure::new(Code::Create, format!("cannot write the scripts: {error}"));
        let scripts = tempfile::tempdir().map_err(cannot)?;
        for (name, text) in [("step.py", STEP), ("models.py", MODELS)] {
            std::fs::write(scripts.path().join(name), text).map_err(cannot)?;
        }
        Ok(Self { program: program.to_owned(), scripts })
    }
}

/// A running process; it ends when its input is closed.
pub(super) struct Peer {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    hello: Value,
}

impl Peer {
    /// This program, on `case`.
    pub(super) fn engine(case: &Case) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::internal(format!("which program this is: {error}")))?;
        let mut command = Command::new(program);
        command.args(["bench", "train", "--serve"]);
        Self::start("the engine", command, case)
    }

    /// PyTorch, on `case`.
    pub(super) fn torch(case: &Case, python: &Python) -> Result<Self, Failure> {
        let mut command = Command::new(&python.program);
        // Its number of threads is set before the library starts any.
        command.env("OMP_NUM_THREADS", case.threads.to_string()).arg(python.scripts.path().join("step.py"));
        Self::start("PyTorch", command, case)
    }

    fn start(name: &'static str, mut command: Command, case: &Case) -> Result<Self, Failure> {
        let text = serde_json::to_string(case).expect("a case is plain data");
        let cannot = |error| Failure::internal(format!("cannot start {name}: {error}"));
        let mut child =
            command.arg(text).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(cannot)?;
        let input = child.stdin.take().expect("stdin was asked for");
        let output = BufReader::new(child.stdout.take().expect("stdout was asked for"));
        let mut peer = Self { name, child, input, output, hello: Value::Null };
        peer.hello = peer.answer()?;
        Ok(peer)
    }

    /// The same process on another case; PyTorch only, whose start takes seconds.
    pub(super) fn switch(&mut self, case: &Case) -> Result<(), Failure> {
        let text = serde_json::to_string(case).expect("a case is plain data");
        writeln!(self.input, "{text}").map_err(|error| self.lost(&error.to_string()))?;
        self.hello = self.answer()?;
        Ok(())
    }

    /// What it says it is.
    pub(super) fn version(&self) -> &str {
        self.hello["version"].as_str().unwrap_or("unknown")
    }

    /// Scalars of its model, if it says.
    pub(super) fn parameters(&self) -> u64 {
        self.hello["parameters"].as_u64().unwrap_or(0)
    }

    /// Does `steps` steps.
    pub(super) fn steps(&mut self, steps: usize) -> Result<Measured, Failure> {
        writeln!(self.input, "{steps}").map_err(|error| self.lost(&error.to_string()))?;
        let measured: Measured =
            serde_json::from_value(self.answer()?).map_err(|error| self.lost(&error.to_string()))?;
        if measured.loss.is_finite() && measured.wall_ms.len() == steps {
            Ok(measured)
        } else {
            Err(self.lost("its steps did not train"))
        }
    }

    fn answer(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err(self.lost("it ended; its message stands above")),
            Ok(_) => serde_json::from_str(&line).map_err(|error| self.lost(&error.to_string())),
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    fn lost(&self, why: &str) -> Failure {
        Failure::new(Code::Failed, format!("{} was lost: {why}", self.name))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Already gone is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a number of steps took.
#[derive(Debug, Default, Clone, Deserialize)]
pub(super) struct Measured {
    wall_ms: Vec<f64>,
    /// All steps and threads together.
    processor_ms: f64,
    loss: f64,
    memory_bytes: u64,
}

impl Measured {
    #[cfg(test)]
    pub(super) fn of(wall_ms: Vec<f64>, processor_ms: f64, memory_bytes: u64) -> Self {
        Self { wall_ms, processor_ms, loss: 0.0, memory_bytes }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.wall_ms.extend(other.wall_ms);
        self.processor_ms += other.processor_ms;
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
    }

    /// Wall time of a step.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.wall_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Mean processor time of a step.
    pub(super) fn processor(&self) -> f64 {
        self.processor_ms / self.wall_ms.len() as f64
    }

    pub(super) fn memory(&self) -> u64 {
        self.memory_bytes
    }

    pub(super) fn json(&self) -> Map<String, Value> {
        let least = self.wall_ms.iter().copied().fold(f64::INFINITY, f64::min);
        let fields = [
            ("steps", json!(self.wall_ms.len())),
            ("wall_ms_median", json!(self.median())),
            ("wall_ms_min", json!(least)),
            ("processor_ms", json!(self.processor())),
            ("memory_bytes", json!(self.memory_bytes)),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
