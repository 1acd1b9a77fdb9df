//! A child process with a name and a log file: started, asked to stop, never left behind.

use crate::exit::{Code, Failure};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::{Child, ChildStdin, Command};

/// How long a child may take to stop after SIGTERM before it is killed: longer than it gives itself.
const STOP: Duration = Duration::from_secs(15);
/// Lines of a log that are shown when its process died.
const TAIL: usize = 12;

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    /// Closed by the kernel when this process dies, whatever the cause: the child stops then.
    _lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts this same program with `args` and, in its environment, `secret`; its output goes to `log`.
    pub(crate) fn start(
        name: &str,
        args: &[&str],
        secret: Option<(&str, &str)>,
        log: &Path,
    ) -> Result<Self, Failure> {
        let cannot = |what: &str, error: std::io::Error| {
            Failure::new(Code::Internal, format!("cannot start {name}: {what}: {error}"))
        };
        let program = std::env::current_exe().map_err(|e| cannot("which program this is", e))?;
        let out = File::create(log).map_err(|e| cannot(&log.display().to_string(), e))?;
        let err = out.try_clone().map_err(|e| cannot(&log.display().to_string(), e))?;
        let mut child = Command::new(&program)
            .args(args)
            .arg("--until-stdin-closes")
            .envs(secret)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // Ctrl-C is for the parent, which stops its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| cannot(&program.display().to_string(), e))?;
        let lifeline = child.stdin.take();
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child, _lifeline: lifeline })
    }

    /// The process id, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for a death that nobody asked for.
    pub(crate) async fn died(&mut self) -> Failure {
        let how = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        let tail = tail(&self.log);
        let text = format!("{} ended early ({how}); the end of {}:\n{tail}", self.name, self.log.display());
        Failure::new(Code::Failed, text)
    }

    /// Asks the process to stop; `wait` sees it end.
    pub(crate) fn ask_to_stop(&self) {
        let id =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            // An error means that it is gone, which is what was asked for.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
    }

    /// Waits for the end after `ask_to_stop`, and kills a process that takes too long.
    pub(crate) async fn wait(mut self) -> Result<(), Failure> {
        let unclean = |how: &str| {
            let text = format!("{} did not stop cleanly: {how}; see {}", self.name, self.log.display());
            Err(Failure::internal(text))
        };
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if ExitStatus::success(&status) => Ok(()),
            Ok(Ok(status)) => unclean(&status.to_string()),
            Ok(Err(error)) => unclean(&error.to_string()),
            Err(_) => {
                // The child may end by itself in this instant.
                let _ = self.child.kill().await;
                unclean(&format!("killed after {} s", STOP.as_secs()))
            }
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = match std::fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("  (cannot be read: {error})"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    if last.is_empty() {
        return "  (empty)".to_owned();
    }
    last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Largest resident memory of a process so far, in bytes (`VmHWM`); `None` where the kernel does not
/// say.
pub(crate) fn peak_memory(id: u32) -> Option<u64> {
    kilobytes(&std::fs::read_to_string(format!("/proc/{id}/status")).ok()?, "VmHWM:")
}

/// Resident memory of a process, in bytes; `None` where the kernel does not say.
pub(crate) fn resident_memory(id: u32) -> Option<u64> {
    kilobytes(&std::fs::read_to_string(format!("/proc/{id}/status")).ok()?, "VmRSS:")
}

/// Lets this process' [`peak_memory`] start again at its present size, where the kernel can.
pub(crate) fn forget_peak() {
    // Without it the peak is that of the whole life: too large, never too small.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Open files of a process; `None` where the kernel does not say.
pub(crate) fn open_files(id: u32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count())
}

/// Processor seconds of a process so far, user and system, all threads; `None` where the kernel does
/// not say.
pub(crate) fn cpu_seconds(id: u32) -> Option<f64> {
    /// Linux counts in these (`USER_HZ`), whatever its own clock.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name of the program stands in parentheses and may hold anything; utime is the 12th field after it.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// Memory that new processes can have without swapping, in bytes.
pub(crate) fn available_memory() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let lines: Vec<String> = (0..40).map(|i| format!("line {i}")).collect();
        std::fs::write(&log, lines.join("\n")).unwrap();
        let end = tail(&log);
        assert!(end.starts_with("  line 28\n") && end.ends_with("  line 39"), "{end}");
        assert!(tail(&folder.path().join("none")).contains("cannot be read"));
    }

    #[test]
    fn memory_from_the_kernel() {
        assert_eq!(kilobytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n", "VmHWM:"), Some(2048 * 1024));
        assert_eq!(kilobytes("x: y", "VmHWM:"), None);
        assert!(peak_memory(std::process::id()).unwrap() > 100_000);
        let before = cpu_seconds(std::process::id()).unwrap();
        let busy = std::time::Instant::now();
        while busy.elapsed().as_millis() < 300 {}
        assert!(cpu_seconds(std::process::id()).unwrap() > before);
        assert!(available_memory().unwrap() > 0);
        let me = std::process::id();
        assert!((100_000..=peak_memory(me).unwrap()).contains(&resident_memory(me).unwrap()));
        let held = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(open_files(me).unwrap() > 3);
        drop(held);
    }
}
