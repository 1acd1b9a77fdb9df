//! Open connections, by whom: for the limits, and so that a revocation can end them at once.

use crate::store::Holder;
use identity::Identity;
use proto::limits;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct Open {
    next: u64,
    total: usize,
    anonymous: usize,
    named: BTreeMap<Holder, BTreeMap<u64, CancellationToken>>,
}

/// All open connections of one coordinator.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Arc<Mutex<Open>>,
    max: usize,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<Mutex<Open>>,
    taken: Taken,
}

#[derive(Debug)]
enum Taken {
    Total,
    Anonymous,
    Named(Holder, u64),
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// A place for a connection that has said nothing yet; an error names the limit.
    pub(crate) fn enter(&self) -> Result<Place, String> {
        let mut open = lock(&self.open);
        if open.total >= self.max {
            return Err(format!("{} connections are open, `connections_max`", open.total));
        }
        open.total += 1;
        Ok(Place { open: Arc::clone(&self.open), taken: Taken::Total })
    }

    /// Ends every connection of a holder; gives their number.
    pub(crate) fn cut(&self, holder: &Holder) -> usize {
        let open = lock(&self.open);
        let Some(connections) = open.named.get(holder) else { return 0 };
        connections.values().for_each(CancellationToken::cancel);
        connections.len()
    }

    /// Open connections of a holder.
    pub(crate) fn of(&self, holder: &Holder) -> usize {
        lock(&self.open).named.get(holder).map_or(0, BTreeMap::len)
    }
}

impl Place {
    /// The connection turned out to be somebody's, or nobody's; an error names the limit.
    pub(crate) fn name(
        &mut self,
        identity: Option<&Identity>,
        cancel: &CancellationToken,
    ) -> Result<(), String> {
        let mut open = lock(&self.open);
        let Some(identity) = identity else {
            if open.anonymous >= limits::CONNECTIONS_ANONYMOUS {
                let most = limits::CONNECTIONS_ANONYMOUS;
                return Err(format!("{most} connections without a certificate are open"));
            }
            open.anonymous += 1;
            self.taken = Taken::Anonymous;
            return Ok(());
        };
        let holder = (identity.role, identity.name.clone());
        let number = open.next;
        let own = open.named.entry(holder.clone()).or_default();
        if own.len() >= limits::CONNECTIONS_PER_IDENTITY {
            let most = limits::CONNECTIONS_PER_IDENTITY;
            return Err(format!("{identity} has {most} connections open"));
        }
        own.insert(number, cancel.clone());
        open.next += 1;
        self.taken = Taken::Named(holder, number);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        match &self.taken {
            Taken::Total => {}
            Taken::Anonymous => open.anonymous -= 1,
            Taken::Named(holder, number) => {
                if let Some(own) = open.named.get_mut(holder) {
                    own.remove(number);
                    if own.is_empty() {
                        open.named.remove(holder);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::{Role, Serial};

    fn worker(name: &str) -> Identity {
        Identity {
            role: Role::Worker,
            name: name.into(),
            serial: Serial("1".into()),
            issued: 0,
            not_after: u64::MAX,
        }
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let connections = Connections::new(2);
        let cancel = CancellationToken::new();
        let mut first = connections.enter().unwrap();
        let second = connections.enter().unwrap();
        assert!(connections.enter().unwrap_err().contains("connections_max"));
        drop(second);
        let mut third = connections.enter().unwrap();
        first.name(Some(&worker("a")), &cancel).unwrap();
        third.name(None, &cancel).unwrap();
        let a = (Role::Worker, "a".to_owned());
        assert_eq!((connections.of(&a), connections.cut(&(Role::Operator, "a".into()))), (1, 0));
        assert!(!cancel.is_cancelled());
        assert_eq!(connections.cut(&a), 1);
        assert!(cancel.is_cancelled());
        drop((first, third));
        assert_eq!(connections.of(&a), 0);
        let open = lock(&connections.open);
        assert_eq!((open.total, open.anonymous), (0, 0));
    }

    #[test]
    fn nobody_takes_all_places() {
        let connections = Connections::new(usize::MAX);
        let cancel = CancellationToken::new();
        let take = |identity: Option<&Identity>| {
            let mut place = connections.enter().unwrap();
            place.name(identity, &cancel).map(|()| place)
        };
        let one: Vec<Place> =
            (0..limits::CONNECTIONS_PER_IDENTITY).map(|_| take(Some(&worker("a"))).unwrap()).collect();
        assert!(take(Some(&worker("a"))).unwrap_err().contains("`a`"));
        take(Some(&worker("b"))).unwrap();
        let nobody: Vec<Place> = (0..limits::CONNECTIONS_ANONYMOUS).map(|_| take(None).unwrap()).collect();
        assert!(take(None).unwrap_err().contains("without a certificate"));
        drop((one, nobody));
        take(None).unwrap();
        take(Some(&worker("a"))).unwrap();
    }
}
