//! Revoked certificates: the list that the authority signed is read from a file and heard from others, kept, and
//! passed on. Whoever is on it is evicted at once, as a peer that crashed; its connections end by themselves.

use super::{node::Node, serve::Shared, store};
use crate::WorkerError;
use gossip::machine::Event;
use identity::Role;
use proto::{peers, v1::tell_request::Body as Told};
use std::{fs, io, path::PathBuf, time::Duration};
use tokio::{task::spawn_blocking, time::Instant};

/// The owner's file is looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// Where lists come from, and where the newest is kept.
#[derive(Debug)]
pub(super) struct Lists {
    /// The owner's, and what it said last.
    file: Option<PathBuf>,
    said: String,
    looked: Instant,
    kept: PathBuf,
    /// Number of the list that this peer has acted on.
    heeded: u64,
}

impl Lists {
    /// Reads what is there at the start.
    pub(super) fn read(file: Option<PathBuf>, kept: PathBuf, shared: &Shared) -> Result<Self, WorkerError> {
        let mut said = String::new();
        for (path, must) in [(Some(&kept), false), (file.as_ref(), true)] {
            let Some(path) = path else { continue };
            let wrong = |detail| WorkerError::Identity { file: path.clone(), detail };
            said = match fs::read_to_string(path) {
                Err(error) if !must && error.kind() == io::ErrorKind::NotFound => continue,
                read => read.map_err(|error| wrong(error.to_string()))?,
            };
            shared.heed(&said).map_err(wrong)?;
        }
        Ok(Self { file, said, looked: Instant::now(), kept, heeded: 0 })
    }
}

impl Node {
    /// Reads the owner's list again if it has changed.
    async fn read_list(&mut self) {
        let lists = &mut self.parts.lists;
        let Some(file) = lists.file.clone().filter(|_| lists.looked.elapsed() > LOOK) else { return };
        lists.looked = Instant::now();
        let shown = file.display().to_string();
        let read = spawn_blocking(move || fs::read_to_string(file)).await;
        let text = match read.map_err(io::Error::other).flatten() {
            Ok(text) if text == lists.said => return,
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(file = shown, %error, "the list of revocations cannot be read; the last one counts");
                return;
            }
        };
        match self.parts.shared.heed(&text) {
            Ok(_) => {}
            Err(why) => tracing::warn!(file = shown, why, "a list of revocations is ignored"),
        }
        self.parts.lists.said = text;
    }

    /// Acts on a list that is newer than the last: keeps it, passes it on, and evicts whom it names.
    ///
    /// # Errors
    /// If this peer itself is on it.
    pub(super) async fn heed_revocations(&mut self) -> Result<(), WorkerError> {
        self.read_list().await;
        let list = self.parts.shared.revoked.list();
        if list.number() == self.parts.lists.heeded {
            return Ok(());
        }
        self.parts.lists.heeded = list.number();
        self.keep(list.text()).await?;
        let me = self.machine.me();
        let others: Vec<u64> = self.known.keys().copied().filter(|id| *id != me.id).collect();
        for id in others {
            self.post.tell(id, Told::Revocations(list.text().to_owned()));
        }
        let own = self.parts.shared.revoked.check(&self.parts.identity);
        own.map_err(|detail| WorkerError::Identity { file: self.parts.lists.kept.clone(), detail })?;
        let mut membership = self.machine.membership().clone();
        for name in list.names(Role::Peer).filter(|name| self.parts.shared.is_revoked(name)) {
            let id = peers::id_of(name);
            if let Some(member) =
                membership.live().into_iter().find(|member| member.id == id && *member != me)
            {
                tracing::warn!(peer = name, "its certificate was revoked: evicted");
                membership.evict(member);
            }
        }
        if membership == *self.machine.membership() {
            Ok(())
        } else {
            self.drive(Event::Membership(membership)).await
        }
    }

    async fn keep(&mut self, text: &str) -> Result<(), WorkerError> {
        let (path, bytes): (PathBuf, Vec<u8>) = (self.parts.lists.kept.clone(), text.into());
        let to = path.clone();
        let failed = |problem: String| WorkerError::StateDir { path: path.clone(), problem };
        let written = spawn_blocking(move || store::replace(&to, &bytes)).await;
        written.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }
}
