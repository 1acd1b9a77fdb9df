//! What a peer must not forget, in one record: the mixing machine's state (model, mass, ledger, membership)
//! with what the driver adds to it. Long vectors are written and synced first, beside the record, which is then
//! written beside its place, synced, renamed. It is either the old one or the new one, so a message is applied
//! and remembered as applied at once.

use super::{
    digests::Digests,
    slots::{Place, Slots},
};
use gossip::machine::{State, Vector};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

const MAGIC: &[u8; 16] = b"starling-peer3\r\n";
const DIGEST_BYTES: usize = 32;

/// What is stored.
#[derive(Debug)]
pub(super) struct Record {
    /// Digest of the run file's content.
    pub(super) run: [u8; 32],
    pub(super) machine: State<f32>,
    /// Where the last local run ended, for relaxed starts.
    pub(super) last_end: Option<Vector<f32>>,
}

/// The record as it is in its file: its vectors were taken out and are where `places` says, in their order.
#[derive(Debug, Serialize, Deserialize)]
struct Hollow {
    run: [u8; 32],
    machine: State<f32>,
    last_end: Option<Vector<f32>>,
    places: Vec<Place>,
}

/// The vectors of a record, in a fixed order.
fn vectors<'a>(
    machine: &'a mut State<f32>,
    last_end: &'a mut Option<Vector<f32>>,
) -> impl Iterator<Item = &'a mut Vector<f32>> {
    machine.vectors().into_iter().chain(last_end)
}

/// The state directory of one peer, locked while this lives.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    slots: Mutex<Slots>,
    _lock: File,
}

impl Store {
    /// Opens the directory, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        let lock = File::create(dir.join("lock")).map_err(|error| error.to_string())?;
        lock.try_lock().map_err(|_| "another peer is using it; give each its own `state_dir`".to_owned())?;
        let slots = Mutex::new(Slots::new(dir).map_err(|error| error.to_string())?);
        Ok(Self { dir: dir.to_owned(), slots, _lock: lock })
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
        let wrong = |why: String| {
            format!("{}: {why}; remove it to join the run anew, as another incarnation", file.display())
        };
        let Hollow { run: of, mut machine, mut last_end, places } = read(&bytes).map_err(wrong)?;
        if of != run {
            let text = "it belongs to another run file; give each run its own `state_dir`";
            return Err(format!("{}: {text}", file.display()));
        }
        let mut slots = self.slots();
        slots.named(&places);
        let empty: Vec<_> = vectors(&mut machine, &mut last_end).collect();
        if empty.len() != places.len() {
            return Err(wrong("it has another number of vectors".into()));
        }
        for (vector, place) in empty.into_iter().zip(places) {
            *vector = slots.read(place).map_err(wrong)?;
        }
        Ok(Some(Record { run, machine, last_end }))
    }

    /// Stores a record in place of the last one, durably: it is either the old one or the new one.
    pub(super) fn save(&self, record: Record, digests: &Digests) -> Result<(), String> {
        let told = |error: io::Error| error.to_string();
        let Record { run, mut machine, mut last_end } = record;
        let whole: Vec<_> = vectors(&mut machine, &mut last_end).map(std::mem::take).collect();
        let mut slots = self.slots();
        let places = slots.keep(&whole, digests).map_err(told)?;
        let hollow = Hollow { run, machine, last_end, places };
        let bytes = bytes(&hollow)?;
        replace(&self.path("state"), &bytes).map_err(told)?;
        slots.named(&hollow.places);
        Ok(())
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(bytes: &[u8]) -> Result<Hollow, String> {
    let body = bytes.strip_prefix(MAGIC).ok_or("it does not begin as a peer's state does")?;
    let split = body.len().checked_sub(DIGEST_BYTES).ok_or("it is cut off")?;
    let (body, digest) = body.split_at(split);
    if blake3::hash(body).as_bytes() != digest {
        return Err("it is damaged".into());
    }
    postcard::from_bytes(body).map_err(|error| format!("it cannot be read ({error})"))
}

fn bytes(record: &Hollow) -> Result<Vec<u8>, String> {
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

    fn machine(model: Vec<f32>) -> Machine<f32> {
        let members = Membership::new((0..3).map(|id| Member { id, incarnation: 1 << 40 }));
        let config = Config {
            topology: Arc::from(gossip::make("ring", &gossip::Params::new()).unwrap()),
            mode: Mode::Push,
            method: Method::default(),
            weighted: false,
            barrier: Barrier::Synchronous,
            seed: 1,
            w_min: 0.3,
            deadline_ms: None,
            retry_ms: 100,
        };
        Machine::new(config, members.live()[0], members, (0, model)).unwrap()
    }

    fn record(machine: &Machine<f32>) -> Record {
        Record { run: [7; 32], machine: machine.state().clone(), last_end: Some(vec![3.0].into()) }
    }

    fn seen(record: &Record) -> String {
        format!("{record:?}")
    }

    #[test]
    fn a_record_survives_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(Store::open(folder.path()).unwrap_err().contains("another peer"));
        assert!(store.load([7; 32]).unwrap().is_none());
        let mut machine = machine(vec![1.0, -2.0]);
        // With shares under way.
        machine.handle(Event::Trained { round: 0, done: vec![0.5, f32::MIN_POSITIVE].into() }, 5);
        store.save(record(&machine), &Digests::default()).unwrap();
        assert_eq!(seen(&store.load([7; 32]).unwrap().unwrap()), seen(&record(&machine)));
        assert!(store.load([8; 32]).unwrap_err().contains("another run file"));
        let text = fs::read(store.path("state")).unwrap();
        for at in [0, MAGIC.len() + 40, text.len() - 1] {
            let mut broken = text.clone();
            broken[at] ^= 1;
            fs::write(store.path("state"), &broken).unwrap();
            assert!(store.load([7; 32]).unwrap_err().contains("remove it"), "byte {at}");
        }
        fs::write(store.path("state"), &text[..text.len() / 2]).unwrap();
        assert!(store.load([7; 32]).is_err());
    }

    #[test]
    fn long_vectors_are_written_once_and_never_over_the_record_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let (store, digests) = (Store::open(folder.path()).unwrap(), Digests::default());
        let length = 20_000;
        let mut machine = machine((0..length).map(|k| k as f32).collect());
        let files = || {
            let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
            fs::read_dir(folder.path()).unwrap().map(name).filter(|name| name.starts_with("vector-")).count()
        };
        store.save(record(&machine), &digests).unwrap();
        assert_eq!(files(), 1, "the model");
        // Equal vectors are one: shares of a third for two neighbours, and what is left.
        for round in 0..4_u64 {
            let before = seen(&store.load([7; 32]).unwrap().unwrap());
            let now = machine.clone();
            machine.handle(Event::Trained { round: 0, done: vec![round as f32; length].into() }, 5);
            // Dying after the vectors and before the record: the old one is whole.
            let mut state = machine.state().clone();
            let vectors: Vec<_> = state.vectors().into_iter().map(std::mem::take).collect();
            store.slots().keep(&vectors, &digests).unwrap();
            assert_eq!(seen(&store.load([7; 32]).unwrap().unwrap()), before);
            store.save(record(&machine), &digests).unwrap();
            assert_eq!(seen(&store.load([7; 32]).unwrap().unwrap()), seen(&record(&machine)));
            assert!(files() <= 6, "{} files", files());
            machine = now;
        }
        // As a process that starts again.
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        let loaded = store.load([7; 32]).unwrap().unwrap();
        store.save(loaded, &digests).unwrap();
        let mut any = Vec::new();
        for entry in fs::read_dir(folder.path()).unwrap() {
            any.extend(Some(entry.unwrap().path()).filter(|path| path.to_str().unwrap().contains("vector-")));
        }
        for path in any {
            let mut bytes = fs::read(&path).unwrap();
            bytes[77] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        assert!(store.load([7; 32]).unwrap_err().contains("damaged"));
    }
}
