//! Vectors as files named by their digest: written, synced, renamed, and not changed under that name. What
//! a name says is what the file holds, so a resumed download can never mix two models.
//!
//! A large file that nobody needs any more is not removed but written again under another name: fresh pages
//! of the page cache and fresh blocks cost more than the copy into them.

use super::{
    StoreError,
    passes::{hash, read, read_cached, survey, write},
    pool::Pool,
};
use bytes::Bytes;
use proto::{
    chunk::{bytes_of, chunk},
    digest::Digest,
    limits::CHUNK_BYTES,
    v1::Chunk,
};
use rustix::io::pread;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Vectors up to this size are kept in memory while they are the newest: reading a file for each of
/// a thousand workers costs more than a few MiB. Larger ones come from the page cache.
const CACHED_BYTES: usize = 1024 * 1024;
const CACHED_VECTORS: usize = 8;
/// Files that are kept to be written again.
const SPARE_FILES: usize = 2;

/// A directory of vectors.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
    recent: Mutex<Vec<(Digest, Arc<Vec<f32>>)>>,
    /// Checksums of the chunks of the newest vectors: the same for everybody who fetches them.
    checksums: Mutex<Vec<(Digest, Arc<[u32]>)>>,
    pool: Arc<Pool>,
    /// Vectors that were put and that no run has named yet: a commit of another run must not remove
    /// them. Counted, because two runs may put the same vector.
    unnamed: Mutex<BTreeMap<Digest, usize>>,
    files: Mutex<Files>,
    partials: AtomicU64,
}

/// What is known of the files beside their names. Held while a name comes or goes.
#[derive(Debug, Default)]
struct Files {
    /// Those that somebody reads: they are never written again.
    open: BTreeMap<Digest, Weak<File>>,
    /// Large ones that nobody needs, and their lengths.
    spare: Vec<(u64, PathBuf)>,
}

/// A vector that is being sent.
#[derive(Debug)]
pub struct Reader {
    source: Source,
    length: u64,
    checksums: Option<Arc<[u32]>>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
enum Source {
    Memory(Bytes),
    File(Arc<File>),
}

impl Blobs {
    /// Opens or creates the directory; removes what a crash left half written.
    pub fn open(dir: PathBuf) -> Result<Self, StoreError> {
        let fail =
            |error: std::io::Error| StoreError::Directory { path: dir.clone(), detail: error.to_string() };
        fs::create_dir_all(&dir).map_err(fail)?;
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|extension| extension == "partial") {
                fs::remove_file(path).map_err(fail)?;
            }
        }
        Ok(Self {
            dir,
            recent: Mutex::default(),
            checksums: Mutex::default(),
            pool: Arc::default(),
            unnamed: Mutex::default(),
            files: Mutex::default(),
            partials: AtomicU64::new(0),
        })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    fn partial(&self) -> PathBuf {
        let number = self.partials.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{number}.partial"))
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a vector, which keeps its content while it is open.
    fn file(&self, digest: Digest) -> std::io::Result<Arc<File>> {
        let mut files = self.files();
        if let Some(file) = files.open.get(&digest).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(File::open(self.path(digest))?);
        files.open.retain(|_, file| file.strong_count() > 0);
        files.open.insert(digest, Arc::downgrade(&file));
        Ok(file)
    }

    /// Removes the files that are kept to be written again.
    pub fn shrink(&self) -> Result<(), StoreError> {
        let spare = std::mem::take(&mut self.files().spare);
        let failed = spare.into_iter().find_map(|(_, path)| fs::remove_file(path).err());
        failed.map_or(Ok(()), |error| Err(self.failed(&error)))
    }

    fn failed(&self, error: &std::io::Error) -> StoreError {
        StoreError::Directory { path: self.dir.clone(), detail: error.to_string() }
    }

    fn unnamed(&self) -> MutexGuard<'_, BTreeMap<Digest, usize>> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vectors are among those that [`Self::retain`] is told to keep from now on.
    pub fn named(&self, digests: &BTreeSet<Digest>) {
        let mut unnamed = self.unnamed();
        for digest in digests {
            if let Some(count) = unnamed.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    unnamed.remove(digest);
                }
            }
        }
    }

    /// Writes a vector durably and gives its name. It stays until [`Self::named`] hands it over to
    /// [`Self::retain`].
    pub fn put(&self, vector: &Arc<Vec<f32>>) -> Result<Digest, StoreError> {
        let bytes: &[u8] = bytemuck::cast_slice(vector);
        let partial = self.spare(bytes.len() as u64).unwrap_or_else(|| self.partial());
        // The disk is slower than the digest, which the file's name needs and its content does not.
        let (written, (digest, sums)) = rayon::join(|| write(&partial, bytes), || survey(bytes));
        *self.unnamed().entry(digest).or_default() += 1;
        let place = || {
            written?;
            fs::rename(&partial, self.path(digest))?;
            File::open(&self.dir)?.sync_all()
        };
        place().map_err(|error| {
            // Best effort: the next start removes it too.
            let _ = fs::remove_file(&partial);
            // Counted once for each success.
            self.named(&BTreeSet::from([digest]));
            StoreError::Blob { digest, detail: format!("cannot be written: {error}") }
        })?;
        if bytes.len() <= CACHED_BYTES {
            remember(&self.recent, digest, Arc::clone(vector));
        }
        remember(&self.checksums, digest, sums);
        Ok(digest)
    }

    /// A file of that length that nobody needs.
    fn spare(&self, length: u64) -> Option<PathBuf> {
        let spare = &mut self.files().spare;
        let at = spare.iter().position(|(held, _)| *held == length)?;
        Some(spare.swap_remove(at).1)
    }

    fn cached(&self, digest: Digest) -> Option<Arc<Vec<f32>>> {
        recall(&self.recent, digest)
    }

    /// Reads a whole vector, into memory that `buffer` gives, and checks it: against the checksums that were
    /// taken when it was written if this process wrote it, else against its name.
    pub fn get(
        &self,
        digest: Digest,
        buffer: impl FnOnce() -> Vec<f32>,
    ) -> Result<Arc<Vec<f32>>, StoreError> {
        if let Some(vector) = self.cached(digest) {
            return Ok(vector);
        }
        let fail = |detail: String| StoreError::Blob { digest, detail };
        let file = self.file(digest).map_err(|e| fail(format!("cannot be opened: {e}")))?;
        let length = file.metadata().map_err(|e| fail(e.to_string()))?.len();
        if length % 4 != 0 {
            return Err(fail(format!("{length} bytes are no f32 vector")));
        }
        let mut vector = buffer();
        vector.resize(length as usize / 4, 0.0);
        let sums = recall(&self.checksums, digest);
        let chunks = (length as usize).div_ceil(CHUNK_BYTES);
        if sums.as_ref().is_some_and(|sums| sums.len() != chunks) {
            return Err(fail(format!("the file is damaged: it has {length} bytes")));
        }
        read(&file, bytemuck::cast_slice_mut(&mut vector), sums.as_deref()).map_err(fail)?;
        if sums.is_none() {
            let got = hash(bytemuck::cast_slice(&vector));
            if got != digest {
                return Err(fail(format!("the file is damaged: its digest is {got}")));
            }
        }
        Ok(Arc::new(vector))
    }

    /// Checks a vector's file against its name.
    pub fn verify(&self, digest: Digest) -> Result<(), StoreError> {
        let fail = |detail: String| StoreError::Blob { digest, detail };
        let path = self.path(digest);
        let file =
            File::open(&path).map_err(|e| fail(format!("{} cannot be opened: {e}", path.display())))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(|e| fail(format!("{} cannot be read: {e}", path.display())))?;
        let got = Digest(*hasher.finalize().as_bytes());
        if got != digest {
            return Err(fail(format!("{} is damaged: its digest is {got}", path.display())));
        }
        Ok(())
    }

    /// Opens a vector for sending; `None` if it is not here.
    pub fn reader(&self, digest: Digest) -> Result<Option<Reader>, StoreError> {
        if let Some(vector) = self.cached(digest) {
            let bytes = bytes_of(&vector);
            return Ok(Some(self.reading(digest, bytes.len() as u64, Source::Memory(bytes))));
        }
        let fail = |error: std::io::Error| StoreError::Blob { digest, detail: error.to_string() };
        match self.file(digest) {
            Ok(file) => {
                let length = file.metadata().map_err(fail)?.len();
                Ok(Some(self.reading(digest, length, Source::File(file))))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    fn reading(&self, digest: Digest, length: u64, source: Source) -> Reader {
        let checksums = recall(&self.checksums, digest);
        Reader { source, length, checksums, pool: Arc::clone(&self.pool) }
    }

    /// Removes every vector that is not in `keep` and has been named.
    pub fn retain(&self, keep: &BTreeSet<Digest>) -> Result<(), StoreError> {
        // Held throughout: a vector that is put now is either seen here or written after this.
        let unnamed = self.unnamed();
        for entry in fs::read_dir(&self.dir).map_err(|error| self.failed(&error))? {
            let entry = entry.map_err(|error| self.failed(&error))?;
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if let Some(digest) =
                digest.filter(|digest| !keep.contains(digest) && !unnamed.contains_key(digest))
            {
                self.discard(digest, &entry).map_err(|error| self.failed(&error))?;
            }
        }
        Ok(())
    }

    fn discard(&self, digest: Digest, entry: &fs::DirEntry) -> std::io::Result<()> {
        let length = entry.metadata()?.len();
        let mut files = self.files();
        let read = files.open.get(&digest).is_some_and(|file| file.strong_count() > 0);
        if read || length <= CACHED_BYTES as u64 {
            return fs::remove_file(entry.path());
        }
        let spare = self.partial();
        fs::rename(entry.path(), &spare)?;
        files.spare.push((length, spare));
        if files.spare.len() > SPARE_FILES {
            fs::remove_file(files.spare.remove(0).1)?;
        }
        Ok(())
    }
}

impl Reader {
    /// As [`Self::chunk`], if it can be had without waiting for the disk.
    pub fn chunk_at_hand(&self, offset: u64) -> Option<Chunk> {
        let Source::File(file) = &self.source else { return self.chunk(offset).ok()? };
        let whole = |buffer: &mut [u8]| (read_cached(file, buffer, offset)? == buffer.len()).then_some(());
        let data = self.pool.fill(self.size_at(offset), |buffer| whole(buffer).ok_or(())).ok()?;
        Some(self.summed(offset, data))
    }

    fn size_at(&self, offset: u64) -> usize {
        self.length.saturating_sub(offset).min(CHUNK_BYTES as u64) as usize
    }

    /// Bytes in the vector.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The chunk at an offset; `None` at the end.
    pub fn chunk(&self, offset: u64) -> std::io::Result<Option<Chunk>> {
        let size = self.size_at(offset);
        if size == 0 {
            return Ok(None);
        }
        let data = match &self.source {
            Source::Memory(bytes) => bytes.slice(offset as usize..offset as usize + size),
            Source::File(file) => self.pool.fill(size, |buffer| {
                let mut done = 0;
                while done < size {
                    match pread(file, &mut buffer[done..], offset + done as u64)? {
                        0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
                        read => done += read,
                    }
                }
                Ok(())
            })?,
        };
        Ok(Some(self.summed(offset, data)))
    }

    fn summed(&self, offset: u64, data: Bytes) -> Chunk {
        let known = self.checksums.as_ref().filter(|_| offset.is_multiple_of(CHUNK_BYTES as u64));
        match known.and_then(|sums| sums.get((offset / CHUNK_BYTES as u64) as usize)) {
            Some(&crc32c) => Chunk { offset, data, crc32c },
            None => chunk(offset, data),
        }
    }
}

fn remember<T>(kept: &Mutex<Vec<(Digest, T)>>, digest: Digest, value: T) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.retain(|(held, _)| *held != digest);
    kept.push((digest, value));
    if kept.len() > CACHED_VECTORS {
        kept.remove(0);
    }
}

fn recall<T: Clone>(kept: &Mutex<Vec<(Digest, T)>>, digest: Digest) -> Option<T> {
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.iter().find(|(held, _)| *held == digest).map(|(_, value)| value.clone())
}
