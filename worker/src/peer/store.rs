//! What a peer must not forget, in one file: the mixing machine's state (model, mass, ledger, membership)
//! with what the driver adds to it, written beside its place, synced, renamed. It is either the old one or
//! the new one, so a message is applied and remembered as applied at once.

use gossip::machine::State;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 16] = b"starling-peer2\r\n";
const DIGEST_BYTES: usize = 32;

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record<M = State<f32>> {
    /// Digest of the run file's content.
    pub(super) run: [u8; 32],
    pub(super) machine: M,
    /// Where the last local run ended, for relaxed starts.
    pub(super) last_end: Option<Vec<f32>>,
}

/// The state directory of one peer, locked while this lives.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the directory, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        let lock = File::create(dir.join("lock")).map_err(|error| error.to_string())?;
        lock.try_lock().map_err(|_| "another peer is using it; give each its own `state_dir`".to_owned())?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The stored state; `None` before the first.
    pub(super) fn load(&self, run: [u8; 32]) -> Result<Option<Record>, String> {
        let file = self.path("state");
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        let record = read(&bytes).map_err(|why| {
            format!("{}: {why}; remove it to join the run anew, as another incarnation", file.display())
        })?;
        if record.run != run {
            let text = "it belongs to another run file; give each run its own `state_dir`";
            return Err(format!("{}: {text}", file.display()));
        }
        Ok(Some(record))
    }
}

fn read(bytes: &[u8]) -> Result<Record, String> {
    let body = bytes.strip_prefix(MAGIC).ok_or("it does not begin as a peer's state does")?;
    let split = body.len().checked_sub(DIGEST_BYTES).ok_or("it is cut off")?;
    let (body, digest) = body.split_at(split);
    if blake3::hash(body).as_bytes() != digest {
        return Err("it is damaged".into());
    }
    postcard::from_bytes(body).map_err(|error| format!("it cannot be read ({error})"))
}

/// The bytes of a record.
pub(super) fn bytes<M: Serialize>(record: &Record<M>) -> Result<Vec<u8>, String> {
    let mut bytes = MAGIC.to_vec();
    bytes = postcard::to_extend(record, bytes).map_err(|error| error.to_string())?;
    let digest = blake3::hash(&bytes[MAGIC.len()..]);
    bytes.extend(digest.as_bytes());
    Ok(bytes)
}

/// Replaces a file by `bytes`, durably.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = file.with_extension("partial");
    let mut out = File::create(&beside)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&beside, file)?;
    file.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip::{
        machine::{Barrier, Config, Event, Machine, Member, Membership, Method},
        report::Mode,
    };
    use std::sync::Arc;

    fn machine() -> Machine<f32> {
        let members = Membership::new((0..3).map(|id| Member { id, incarnation: 1 << 40 }));
        let config = Config {
            topology: Arc::from(gossip::make("ring", &gossip::Params::new()).unwrap()),
            mode: Mode::Push,
            method: Method::default(),
            barrier: Barrier::Synchronous,
            seed: 1,
            w_min: 0.3,
            deadline_ms: None,
            retry_ms: 100,
        };
        Machine::new(config, members.live()[0], members, (0, vec![1.0, -2.0])).unwrap()
    }

    #[test]
    fn a_record_survives_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(Store::open(folder.path()).unwrap_err().contains("another peer"));
        assert!(store.load([7; 32]).unwrap().is_none());
        let mut machine = machine();
        // With shares under way.
        machine.handle(Event::Trained { round: 0, done: vec![0.5, f32::MIN_POSITIVE].into() }, 5);
        let record = Record { run: [7; 32], machine: machine.state(), last_end: Some(vec![3.0]) };
        let text = bytes(&record).unwrap();
        replace(&store.path("state"), &text).unwrap();
        let back = store.load([7; 32]).unwrap().unwrap();
        assert_eq!(back.last_end, Some(vec![3.0]));
        assert_eq!(format!("{:?}", back.machine), format!("{:?}", machine.state()));
        assert!(store.load([8; 32]).unwrap_err().contains("another run file"));
        for at in [0, MAGIC.len() + 40, text.len() - 1] {
            let mut broken = text.clone();
            broken[at] ^= 1;
            fs::write(store.path("state"), &broken).unwrap();
            assert!(store.load([7; 32]).unwrap_err().contains("remove it"), "byte {at}");
        }
        fs::write(store.path("state"), &text[..text.len() / 2]).unwrap();
        assert!(store.load([7; 32]).is_err());
    }
}
