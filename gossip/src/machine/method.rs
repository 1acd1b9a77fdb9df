//! What a node does between training and mixing, and what it keeps for it between rounds. All of it is part
//! of [`super::State`], so that one record holds the model, the mass, the ledger and this.

use super::{Machine, Vector, link::Owed, message::Payload};
use crate::kernel::{Scalar, add, axpy};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What nodes mix, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Method {
    /// Models, or shares of them: d parameters to each neighbour.
    #[default]
    Average,
    /// Models; local steps are pulled along by a quasi-global momentum (Lin et al. 2021, arXiv:2102.04761):
    /// `m ← θ m + (1 − θ) (x − x⁺)/η` over the whole round.
    Momentum {
        /// θ.
        theta: f64,
    },
    /// The model and a second vector `y` that follows the mean gradient (gradient tracking, Push-DIGing:
    /// Nedić, Olshevsky and Shi 2017, arXiv:1607.03218): 2d to each neighbour. Local steps have
    /// `c = y − g` added to each gradient, where `g` is the node's own mean gradient of the last round
    /// (for several steps a round: Liu et al. 2023, arXiv:2301.01313). `Σ y = Σ g` always.
    Tracking,
    /// Differences of public copies, compressed (CHOCO-SGD: Koloskova, Stich and Jaggi 2019,
    /// arXiv:1902.00340): `x ← x + γ Σ_j W_ij (x̂_j − x̂_i)`.
    Compressed {
        /// Consensus step γ.
        gamma: f64,
    },
    /// Sums of models along a tree, with how many they are (RelaySum: Vogels et al. 2021,
    /// arXiv:2110.04175): d + 1 to each neighbour.
    Relay,
}

impl Method {
    /// Scalars to each neighbour, for a model of d; what is compressed has fewer on the wire.
    pub fn scalars(self, d: usize) -> usize {
        match self {
            Self::Tracking => 2 * d,
            Self::Relay => d + 1,
            Self::Average | Self::Momentum { .. } | Self::Compressed { .. } => d,
        }
    }

    /// Whether each link has a payload of its own, instead of one model for all.
    pub(super) fn by_link(self) -> bool {
        matches!(self, Self::Compressed { .. } | Self::Relay)
    }
}

/// What a node keeps for its method, beside what its links keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Memory<T> {
    Nothing,
    Momentum {
        m: Vector<T>,
        /// The model when the round began.
        before: Vector<T>,
        /// The learning rate of the round, once it was trained.
        step: Option<f64>,
    },
    /// The node's last mean gradient: what it has added to Σ y since the epoch began.
    Gradient(Vector<T>),
    /// The public copy, counted from the model that all nodes start from.
    Copy(Vector<T>),
}

/// What there is to train, see [`Machine::errand`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Errand<T> {
    /// Where local steps begin: d parameters.
    pub model: Arc<Vec<T>>,
    /// What is added to each gradient; d parameters.
    pub shift: Option<Arc<Vec<T>>>,
    copy: Option<Vector<T>>,
    tracks: bool,
    weight: f64,
}

impl<T: Scalar> Errand<T> {
    /// Gives a change of the model the weight of the node's examples. To be done first, where it is wanted; with
    /// equal numbers of examples it does nothing.
    pub fn weigh(&self, change: &mut [T]) {
        if self.weight != 1.0 {
            let weight = T::of(self.weight);
            for x in change {
                *x = weight * *x;
            }
        }
    }

    /// What the steps are corrected by, `y − g`, where gradients are tracked: over all nodes it sums up to nothing.
    pub fn correction(&self) -> Option<&[T]> {
        self.shift.as_ref().filter(|_| self.tracks).map(|shift| shift.as_slice())
    }

    /// What has to be compressed after that change of `model`: how far it is from the public copy. `origin` is
    /// the model that all nodes start from. `None` where nothing is compressed.
    pub fn off(&self, (model, change): (&[T], &[T]), origin: &[T]) -> Option<Vec<T>> {
        let copy = self.copy.as_ref()?;
        let moved = model.iter().zip(change).zip(origin).zip(&**copy);
        Some(moved.map(|(((model, change), origin), copy)| *model + *change - *origin - *copy).collect())
    }

    /// What training gave: `change` is the model's, over `steps` steps of size `step` in all. `difference` is
    /// what neighbours decode of [`Self::off`].
    pub fn done(self, change: Vec<T>, (step, steps): (f64, u64), difference: Option<Payload<T>>) -> Done<T> {
        let far = step * steps as f64;
        let gradient = self.shift.filter(|_| self.tracks && far > 0.0).map(|mut shift| {
            let slope = |(shift, change): (&mut T, &T)| *shift = T::of(-change.wide() / far) - *shift;
            Arc::make_mut(&mut shift).iter_mut().zip(&change).for_each(slope);
            shift.into()
        });
        Done { change, step, gradient, difference }
    }
}

/// What training gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct Done<T> {
    /// New model minus [`Errand::model`]; d parameters.
    pub change: Vec<T>,
    /// The learning rate of the round.
    pub step: f64,
    /// The mean gradient of the local steps, where it is tracked.
    pub gradient: Option<Vector<T>>,
    /// The compressed difference, where differences travel.
    pub difference: Option<Payload<T>>,
}

impl<T> From<Vec<T>> for Done<T> {
    fn from(change: Vec<T>) -> Self {
        Self { change, step: 1.0, gradient: None, difference: None }
    }
}

impl<T: Scalar> Memory<T> {
    /// Of a node that begins with `model`.
    pub(super) fn new(method: Method, model: &[T]) -> Self {
        let zeros = || vec![T::default(); model.len()].into();
        match method {
            Method::Average | Method::Relay => Self::Nothing,
            Method::Momentum { .. } => {
                Self::Momentum { m: zeros(), before: model.to_vec().into(), step: None }
            }
            Method::Tracking => Self::Gradient(zeros()),
            Method::Compressed { .. } => Self::Copy(zeros()),
        }
    }
}

impl<T: Scalar> Machine<T> {
    /// Parameters of the model, d.
    pub(super) fn parameters(&self) -> usize {
        let all = self.state.x.len();
        if self.config.method == Method::Tracking { all / 2 } else { all }
    }

    /// What there is to train; `None` without mass.
    pub fn errand(&self) -> Option<Errand<T>> {
        let model = self.model()?;
        let (mut shift, mut copy) = (None, None);
        match (&self.state.memory, self.config.method) {
            (Memory::Momentum { m, .. }, Method::Momentum { theta }) => {
                shift = Some(Arc::new(m.iter().map(|m| T::of(theta) * *m).collect()));
            }
            (Memory::Gradient(gradient), _) => {
                let y = &self.state.x[self.parameters()..];
                shift = Some(Arc::new(y.iter().zip(&**gradient).map(|(y, g)| *y - *g).collect()));
            }
            (Memory::Copy(public), _) => copy = Some(public.clone()),
            _ => {}
        }
        let tracks = self.config.method == Method::Tracking;
        let weight = if self.config.weighted { self.state.membership.weight(self.state.me) } else { 1.0 };
        Some(Errand { model, shift, copy, tracks, weight })
    }

    /// Whether training gave what the method needs, and only that.
    pub(super) fn sound(&self, done: &Done<T>) -> Result<(), String> {
        let length = self.parameters();
        let right = |vector: &[T]| vector.len() == length && T::all_finite(vector);
        let all = [Some(&done.change[..]), done.gradient.as_deref(), done.difference.as_deref()];
        if !all.into_iter().flatten().all(right) || !done.step.is_finite() {
            return Err(format!(
                "a change of {} parameters, expected {length} finite ones",
                done.change.len()
            ));
        }
        let compressed = matches!(self.config.method, Method::Compressed { .. });
        if compressed != done.difference.is_some() {
            return Err("a compressed difference is missing, or not expected".into());
        }
        Ok(())
    }

    /// Adds what training gave to the model and to what is kept.
    pub(super) fn absorb(&mut self, done: Done<T>) {
        let Done { change, step, gradient, difference } = done;
        let d = self.parameters();
        add(&mut self.state.x.edit()[..d], &change);
        self.recycle(change.into());
        match &mut self.state.memory {
            Memory::Nothing => {}
            Memory::Momentum { step: last, .. } => *last = Some(step),
            Memory::Gradient(before) => {
                if let Some(gradient) = gradient {
                    let y = &mut self.state.x.edit()[d..];
                    add(y, &gradient);
                    axpy(y, T::of(-1.0), before);
                    *before = gradient;
                }
            }
            Memory::Copy(copy) => {
                if let Some(difference) = difference {
                    let first = copy.iter().all(|value| *value == T::default());
                    add(copy.edit(), &difference);
                    let all = (!first).then(|| copy.clone());
                    self.owe(&difference, all.as_ref());
                }
            }
        }
    }

    /// The round is over, and the model is what the next one begins with.
    pub(super) fn remember(&mut self) {
        let Method::Momentum { theta } = self.config.method else { return };
        let Some(model) = self.model() else { return };
        if let Memory::Momentum { m, before, step } = &mut self.state.memory {
            if let Some(step) = step.take().filter(|step| *step > 0.0) {
                for ((m, before), now) in m.edit().iter_mut().zip(&**before).zip(&*model) {
                    *m = T::of(theta * m.wide() + (1.0 - theta) * (before.wide() - now.wide()) / step);
                }
            }
            *before = model.into();
        }
    }

    /// A node that did not begin with the model that all start from: others do not know its public copy, and
    /// get it whole. To be called before the first event.
    #[must_use]
    pub fn from_origin(mut self, origin: &[T]) -> Self {
        if let Memory::Copy(copy) = &mut self.state.memory {
            let off = self.state.x.iter().zip(origin).map(|(x, origin)| *x - *origin);
            *copy = off.collect::<Vec<T>>().into();
        }
        self
    }

    /// Whether `y` of that epoch still counts: with every change of the membership tracking begins anew.
    pub(super) fn current(&self, epoch: u64) -> bool {
        self.config.method != Method::Tracking || epoch == self.state.membership.epoch()
    }

    /// Empties the second half of what travelled in an earlier epoch.
    pub(super) fn without_tracked(&self, epoch: u64, mut payload: Vector<T>) -> Vector<T> {
        if !self.current(epoch) {
            let d = self.parameters();
            payload.edit()[d..].fill(T::default());
        }
        payload
    }

    /// The membership changed. What the gone had of `y` cannot be had back, so everybody drops `y` and the
    /// gradient that was added to it; what is under way is void by its epoch. Relayed sums are of models
    /// that may be gone, along a tree that is another one.
    pub(super) fn begin_epoch(&mut self) {
        let d = self.parameters();
        if let Memory::Gradient(gradient) = &mut self.state.memory {
            gradient.edit().fill(T::default());
            self.state.x.edit()[d..].fill(T::default());
            let held = self.state.held.values_mut().flat_map(|round| round.values_mut());
            held.for_each(|held| held.payload.edit()[d..].fill(T::default()));
            let again = self.state.base.is_some().then(|| Payload::from(self.state.x.clone()));
            self.state.base = again;
        }
        if self.config.method == Method::Relay {
            self.state
                .links
                .values_mut()
                .for_each(|link| (link.got, link.owed) = (Vector::default(), Owed::Untold));
        }
    }
}
