//! How the allocator of the C library keeps memory, for processes that live for weeks.
//!
//! It makes up to eight arenas a core. Each keeps what its threads once had at most, so that memory
//! creeps up for hundreds of rounds until every arena has seen every burst.

/// Takes effect for allocations from here on: called before any thread is started. An operator who sets
/// `GLIBC_TUNABLES` or `MALLOC_ARENA_MAX` knows better.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "mallopt takes two numbers and is called while there is one thread")]
pub(crate) fn settle() {
    /// Beyond this, buffers come from the system and go back to it, in fresh pages each time.
    const MAPPED_BYTES: i32 = 8 << 20;
    /// Kept at the top of the heap rather than given back.
    const KEPT_BYTES: i32 = 32 << 20;
    if ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as i32);
    let arenas = (cores / 4).clamp(1, 8);
    let options = [
        (libc::M_ARENA_MAX, arenas),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ];
    for (option, value) in options {
        // SAFETY: no memory is passed, and no other thread runs yet.
        let taken = unsafe { libc::mallopt(option, value) };
        debug_assert_eq!(taken, 1, "glibc knows option {option}");
    }
}

/// As [`settle`], for a process that makes vectors of one size over and over and then ends: in one heap, which
/// gives nothing back. Fresh pages would cost more than what is computed in them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "as above")]
pub(crate) fn keep() {
    if ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    for (option, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, i32::MAX), (libc::M_TRIM_THRESHOLD, i32::MAX)]
    {
        // SAFETY: as above. An older glibc that refuses so high a threshold keeps its own.
        let _ = unsafe { libc::mallopt(option, value) };
    }
}

/// Other C libraries have no such arenas.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn settle() {}

/// As above.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep() {}
