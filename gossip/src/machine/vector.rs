//! The long vectors of a state. They are shared, so that a copy of a state, a message or the model to train from
//! costs nothing, and they are changed in place where nobody else holds them.

use super::{Link, Machine, Memory, Owed, State, Verdict};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{ops::Deref, sync::Arc};

/// A vector that is copied when it is changed while somebody else holds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vector<T>(Arc<Vec<T>>);

impl<T> Vector<T> {
    /// The vector, for whoever wants to hold it, too.
    pub fn shared(&self) -> Arc<Vec<T>> {
        Arc::clone(&self.0)
    }

    /// Its memory, unless somebody else holds it.
    pub fn into_vec(self) -> Option<Vec<T>> {
        Arc::into_inner(self.0)
    }
}

impl<T: Clone> Vector<T> {
    pub(super) fn edit(&mut self) -> &mut Vec<T> {
        Arc::make_mut(&mut self.0)
    }
}

impl<T> From<Vec<T>> for Vector<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Arc::new(values))
    }
}

impl<T> From<Arc<Vec<T>>> for Vector<T> {
    fn from(values: Arc<Vec<T>>) -> Self {
        Self(values)
    }
}

impl<T> Deref for Vector<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize> Serialize for Vector<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Vector<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

impl<T> State<T> {
    /// Every vector of the state, in an order that follows from the rest of it: a driver may take them out of a
    /// copy, store them apart, and put them back in the same order.
    pub fn vectors(&mut self) -> Vec<&mut Vector<T>> {
        let mut all = vec![&mut self.x];
        all.extend(self.base.as_mut().map(|base| &mut base.values));
        match &mut self.memory {
            Memory::Nothing => {}
            Memory::Momentum { m, before, .. } => all.extend([m, before]),
            Memory::Gradient(vector) | Memory::Copy(vector) => all.push(vector),
        }
        all.extend(self.links.values_mut().flat_map(Link::vectors));
        let held = self.held.values_mut().flat_map(|round| round.values_mut());
        all.extend(held.map(|held| &mut held.payload));
        all
    }
}

impl<T> Link<T> {
    fn vectors(&mut self) -> impl Iterator<Item = &mut Vector<T>> {
        let under_way = self.under_way.as_mut().map(|under_way| &mut under_way.transfer.payload);
        let answered = match &mut self.verdict {
            Some(Verdict::Answered(payload)) => Some(payload),
            _ => None,
        };
        let waiting = self.waiting.as_mut().map(|transfer| &mut transfer.payload);
        let owed = match &mut self.owed {
            Owed::This(payload) => Some(payload),
            Owed::Untold | Owed::Settled => None,
        };
        let payloads = [under_way, answered, waiting, owed].into_iter().flatten();
        payloads.map(|payload| &mut payload.values).chain([&mut self.got])
    }
}

impl<T> Machine<T> {
    /// Memory for a vector: used before, or none yet.
    pub(super) fn fresh(&mut self) -> Vec<T> {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps the memory of a vector that is not needed any more, for as many as a round trains, sends and receives.
    pub(super) fn recycle(&mut self, vector: Vector<T>) {
        if self.spare.len() < 3 * self.in_use
            && let Some(memory) = vector.into_vec()
        {
            self.spare.push(memory);
        }
    }

    /// Memory that was used before and that this machine does not need itself: for what arrives.
    pub fn spare(&mut self) -> Option<Vec<T>> {
        if self.spare.len() > self.in_use { self.spare.pop() } else { None }
    }
}
