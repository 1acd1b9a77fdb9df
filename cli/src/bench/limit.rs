//! What a round without training cannot go below on this machine: its bytes over loopback TCP, down
//! and up, and one pass over memory for each update.
//!
//! Nothing else is done with the bytes: both ends use one small buffer, the pass adds integers. As in
//! the round, every worker has a connection, and senders, receivers and kernel share the cores.

use super::aggregate;
use std::{
    hint::black_box,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Instant,
};

/// A chunk of the wire, at both ends.
const BUFFER: usize = proto::limits::CHUNK_BYTES;
/// Larger transfers are measured with so many bytes and taken in proportion.
const SAMPLE: u64 = 2 << 30;

/// Seconds that a round cannot go below.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// For the bytes, down and up.
    pub(super) loopback: f64,
    /// For a pass over each update and the sums.
    pub(super) memory: f64,
}

impl Limit {
    /// Measures both, as a round of so many workers would need them.
    pub(super) fn measure(workers: u16, parameters: u64) -> io::Result<Self> {
        let bytes = parameters * 4;
        let sample = bytes.min(SAMPLE / u64::from(workers));
        let seconds = exchange(workers, sample, false)? + exchange(workers, sample, true)?;
        let update = vec![1.0_f32; parameters as usize];
        let mut sums = vec![0_i64; parameters as usize];
        aggregate::add(&mut sums, &update);
        let began = Instant::now();
        aggregate::add(&mut sums, &update);
        let pass = began.elapsed().as_secs_f64();
        black_box(&sums);
        Ok(Self { loopback: seconds * bytes as f64 / sample as f64, memory: pass * f64::from(workers) })
    }

    /// Both, one after the other.
    pub(super) fn seconds(&self) -> f64 {
        self.loopback + self.memory
    }

    /// The better of two measurements of each.
    pub(super) fn or_better(self, other: Self) -> Self {
        Self { loopback: self.loopback.min(other.loopback), memory: self.memory.min(other.memory) }
    }
}

/// Seconds until `peers` connections have each moved `bytes`, from their callers or (`up`) to them.
fn exchange(peers: u16, bytes: u64, up: bool) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..peers).map(|_| scope.spawn(move || side(TcpStream::connect(address)?, bytes, !up))).collect();
        let accepted = (0..peers).map(|_| Ok(listener.accept()?.0)).collect::<io::Result<Vec<_>>>()?;
        let began = Instant::now();
        let served: Vec<_> =
            accepted.into_iter().map(|peer| scope.spawn(move || side(peer, bytes, up))).collect();
        for thread in callers.into_iter().chain(served) {
            thread.join().map_err(|_| io::Error::other("a thread of the measurement panicked"))??;
        }
        Ok(began.elapsed().as_secs_f64())
    })
}

/// One end of a connection.
fn side(mut peer: TcpStream, bytes: u64, sends: bool) -> io::Result<()> {
    let mut buffer = vec![1_u8; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let size = left.min(BUFFER as u64) as usize;
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
    fn both_ways_and_the_pass_take_time() {
        let limit = Limit::measure(3, 200_000).unwrap();
        assert!(limit.loopback > 0.0 && limit.memory > 0.0, "{limit:?}");
        let better = limit.or_better(Limit { loopback: 0.0, memory: f64::INFINITY });
        assert_eq!(better.seconds(), limit.memory);
    }
}
