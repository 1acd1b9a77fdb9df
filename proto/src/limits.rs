//! Every limit and period of the wire, by name, with the reason for its value.

use std::time::Duration;

/// Payload of one chunk. Chunks of 256 KiB moved 2.2 GB/s on loopback; 4 MiB ones 1.9.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// HTTP/2 stream and connection window: with the default of 64 KiB loopback gave half the speed.
pub const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// HTTP/2 frame: a chunk with its envelope in one frame.
pub const FRAME_BYTES: u32 = 512 * 1024;
/// Largest single message: a chunk with its envelope, a run file, a list of workers.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Largest run file.
pub const SPEC_BYTES: usize = 256 * 1024;
/// Largest model that a run may name, in scalars (64 GiB as f32).
pub const PARAMETERS_MAX: u64 = 1 << 34;
/// A heartbeat is sent so often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// A peer that was silent for so long is dead: four heartbeats, so that it is noticed within 5 s.
pub const SILENCE: Duration = Duration::from_secs(4);
/// A transfer without a byte for so long has failed. Progress, not total time, is what is bounded.
pub const STALL: Duration = Duration::from_secs(20);
/// An upload moves at least so many bytes in [`STALL`] (13 kB/s): whoever sends a byte now
/// and then would keep one of the few places for payloads from all others.
pub const PACE_BYTES: u64 = CHUNK_BYTES as u64;
/// A unary call is answered within this time or fails.
pub const CALL: Duration = Duration::from_secs(20);
/// Messages that wait for one slow session before it is given up.
pub const SESSION_QUEUE: usize = 64;
/// Data sets that one worker may offer.
pub const DATASETS_MAX: usize = 256;
/// TLS and the first bytes of HTTP/2 must be there within this time: whoever is slower holds a place that
/// others need.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at the same time; more wait for accept.
pub const HANDSHAKES: usize = 256;
/// Connections without an identity (health checks, enrolments) at the same time.
pub const CONNECTIONS_ANONYMOUS: usize = 64;
/// How long one of those may last.
pub const ANONYMOUS: Duration = Duration::from_mins(10);
/// Connections of one identity at the same time: a worker has one for its session and one for vectors,
/// and the old ones of a restart may still be there.
pub const CONNECTIONS_PER_IDENTITY: usize = 16;
/// Streams of one connection at the same time.
pub const STREAMS_PER_CONNECTION: u32 = 64;
/// Signing requests are small.
pub const REQUEST_BYTES: usize = 8 * 1024;
/// Longest life of a join token.
pub const TOKEN_MAX_S: u64 = 30 * 24 * 3600;
