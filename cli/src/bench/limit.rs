//! What a round without training cannot go below on this machine, measured with nothing but the
//! primitives, in this process.
//!
//! First the bytes alone: down and up over loopback TCP, a connection for each worker, senders,
//! receivers and kernel on the cores that the round has too. Then what a round must do with them
//! besides: a checksum and a digest at each end, one copy into place at each receiver, one pass of the
//! fold for each update, one division, the old model read and moved, the new one written and synced. Each
//! is measured in processor
//! seconds on all cores at once, as the processes of a round share them.

use algorithms::fold::{Accumulator, Fold, Scale, UploadFacts, Weighting, drain_into, fold_into};
use proto::limits::CHUNK_BYTES;
use rayon::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use std::{
    fs::File,
    hint::black_box,
    io::{self, Read, Seek, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::Instant,
};

/// Larger transfers are measured with so many bytes and taken in proportion.
const SAMPLE: u64 = 2 << 30;
/// Larger models likewise; far beyond any cache.
const SCALARS: u64 = 32_000_000;
const CHUNK: usize = CHUNK_BYTES / 4;
const FOLD: Fold = Fold { into: "delta", from: "delta", weighting: Weighting::Examples, scale: Scale::One };
const FACTS: UploadFacts = UploadFacts { examples: 1, steps: 1, lr: 0.1 };

/// What a round cannot go below.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Processor seconds of moving the bytes down and up.
    pub(super) loopback: f64,
    /// Processor seconds of the passes that the bytes need, a model's way into the page cache and out among them.
    pub(super) passes: f64,
    /// Seconds of waiting until the disk has a model.
    pub(super) disk: f64,
}

impl Limit {
    /// Measures, as a round of so many workers would need it; the model is written into `folder`.
    pub(super) fn measure(workers: u16, parameters: u64, folder: &Path) -> io::Result<Self> {
        let bytes = parameters * 4;
        let sample = bytes.min(SAMPLE / u64::from(workers));
        let began = processor();
        exchange(workers, sample, false)?;
        exchange(workers, sample, true)?;
        let loopback = (processor() - began) * bytes as f64 / sample as f64;
        let size = parameters.min(SCALARS);
        let whole = parameters as f64 / size as f64;
        let (stored, disk) = store(folder, size as usize)?;
        let passes = (passes(f64::from(workers), size as usize) + stored) * whole;
        Ok(Self { loopback, passes, disk: disk * whole })
    }

    /// Seconds for the bytes alone, with all cores at work.
    pub(super) fn bytes(&self) -> f64 {
        self.loopback / cores()
    }

    /// Seconds for everything; nothing can be sent before the disk has the model.
    pub(super) fn seconds(&self) -> f64 {
        (self.loopback + self.passes) / cores() + self.disk
    }

    /// The better of two measurements of each.
    pub(super) fn or_better(self, other: Self) -> Self {
        Self {
            loopback: self.loopback.min(other.loopback),
            passes: self.passes.min(other.passes),
            disk: self.disk.min(other.disk),
        }
    }
}

fn cores() -> f64 {
    thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

/// Processor seconds of this process so far, user and system.
fn processor() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// Processor seconds that the passes of a round need, beside moving its bytes.
fn passes(workers: f64, size: usize) -> f64 {
    let arrived = vec![1.0_f32; CHUNK];
    let mut vector = vec![0.5_f32; size];
    let mut accumulator = Accumulator::new(FOLD, size);
    let spent = |work: &mut dyn FnMut()| {
        // The first time memory and processor warm up.
        work();
        let began = processor();
        work();
        processor() - began
    };
    // What has arrived is in the cache; where it belongs is not.
    let receive = spent(&mut || {
        vector.par_chunks_mut(CHUNK).for_each(|place| {
            let arrived = &arrived[..place.len()];
            look(arrived);
            place.copy_from_slice(arrived);
        });
    });
    let send = spent(&mut || vector.par_chunks(CHUNK).for_each(look));
    let fold = spent(&mut || {
        let (sum, scale) = accumulator.parts(&FACTS);
        let blocks = sum.par_chunks_mut(CHUNK).zip(vector.par_chunks(CHUNK));
        blocks.for_each(|(sum, x)| fold_into(sum, x, scale));
    });
    let divide = spent(&mut || {
        accumulator.parts(&FACTS);
        if let Some((sum, unit)) = accumulator.drain() {
            let blocks = vector.par_chunks_mut(CHUNK).zip(sum.par_chunks_mut(CHUNK));
            blocks.for_each(|(mean, sum)| drain_into(mean, sum, unit));
        }
    });
    let mean = vec![1e-3_f32; size];
    let step = spent(&mut || {
        let blocks = vector.par_chunks_mut(CHUNK).zip(mean.par_chunks(CHUNK));
        blocks.for_each(|(model, mean)| model.iter_mut().zip(mean).for_each(|(x, change)| *x += change));
    });
    black_box(&vector);
    // Each update is sent once; the model is looked at once, whoever fetches it.
    2.0 * workers * receive + (workers + 1.0) * send + workers * fold + divide + step
}

/// Checksum and digest, as both ends of a transfer take them.
fn look(block: &[f32]) {
    let bytes: &[u8] = bytemuck::cast_slice(block);
    black_box((proto::chunk::checksums(bytes).last(), blake3::hash(bytes)));
}

/// Processor seconds for a model's way into the page cache and out again, and seconds of waiting until
/// the disk has it. The pages are there already, as they are where files are written again.
fn store(folder: &Path, size: usize) -> io::Result<(f64, f64)> {
    let path = folder.join("limit.partial");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    write(&mut file, size)?;
    let (began, spent) = (Instant::now(), processor());
    write(&mut file, size)?;
    let (seconds, written) = (began.elapsed().as_secs_f64(), processor() - spent);
    file.rewind()?;
    let mut block = vec![0_u8; CHUNK_BYTES];
    let spent = processor();
    while file.read(&mut block)? > 0 {}
    let read = processor() - spent;
    std::fs::remove_file(&path)?;
    Ok((written + read, (seconds - written).max(0.0)))
}

fn write(file: &mut File, size: usize) -> io::Result<()> {
    let block = vec![1.0_f32; CHUNK.min(size)];
    file.rewind()?;
    let mut left = size;
    while left > 0 {
        let part = &block[..left.min(block.len())];
        file.write_all(bytemuck::cast_slice(part))?;
        left -= part.len();
    }
    file.sync_data()
}

/// `peers` connections each move `bytes`, from their callers or (`up`) to them.
fn exchange(peers: u16, bytes: u64, up: bool) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..peers).map(|_| scope.spawn(move || side(TcpStream::connect(address)?, bytes, up))).collect();
        let accepted = (0..peers).map(|_| Ok(listener.accept()?.0)).collect::<io::Result<Vec<_>>>()?;
        let served: Vec<_> =
            accepted.into_iter().map(|peer| scope.spawn(move || side(peer, bytes, !up))).collect();
        for thread in callers.into_iter().chain(served) {
            thread.join().map_err(|_| io::Error::other("a thread of the measurement panicked"))??;
        }
        Ok(())
    })
}

/// One end of a connection.
fn side(mut peer: TcpStream, bytes: u64, sends: bool) -> io::Result<()> {
    let mut buffer = vec![1_u8; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let size = left.min(CHUNK_BYTES as u64) as usize;
        let moved = if sends { peer.write(&buffer[..size])? } else { peer.read(&mut buffer[..size])? };
        if moved == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= moved as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_takes_time() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Limit::measure(3, 200_000, folder.path()).unwrap();
        assert!(limit.loopback > 0.0 && limit.passes > 0.0 && limit.disk >= 0.0, "{limit:?}");
        assert!(limit.seconds() > limit.bytes());
        let none = Limit { loopback: 0.0, passes: 0.0, disk: f64::INFINITY };
        assert_eq!(limit.or_better(none).seconds(), limit.disk);
    }
}
