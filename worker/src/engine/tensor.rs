//! What the operations work on: shared, immutable f32 values with a shape, in memory or on a device.

use super::EngineError;
use super::buffer::Buffer;
use super::cuda::Array;
use super::late::Late;
use std::sync::Arc;

pub(super) type Result<T> = std::result::Result<T, EngineError>;

/// Returns an error of the kernels.
macro_rules! bail {
    ($($text:tt)*) => { return Err($crate::engine::EngineError::Kernel(format!($($text)*))) };
}
pub(super) use bail;

/// Row-major values. A clone is the same tensor.
#[derive(Debug, Clone)]
pub(super) struct Tensor(Arc<Inner>);

#[derive(Debug)]
enum Storage {
    Host(Buffer),
    Device(Array),
    Late(Late),
}

impl Storage {
    fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            Self::Device(array) => array.len(),
            Self::Late(late) => late.len(),
        }
    }
}

#[derive(Debug)]
struct Inner {
    values: Storage,
    shape: Vec<usize>,
    tracked: bool,
    leaf: bool,
}

impl Tensor {
    /// A constant. Lengths that do not fit the shape are a mistake in the caller.
    pub(super) fn new(values: impl Into<Buffer>, shape: &[usize]) -> Self {
        Self::make(Storage::Host(values.into()), shape, (false, false))
    }

    /// Values on a device, in its layout; a parameter if the array has a place for its gradient.
    pub(super) fn device(values: Array, shape: &[usize]) -> Self {
        let leaf = values.is_parameter();
        Self::make(Storage::Device(values), shape, (leaf, leaf))
    }

    /// Values that are formed when somebody looks at them.
    pub(super) fn of_late(late: Late, shape: &[usize]) -> Self {
        Self::make(Storage::Late(late), shape, (false, false))
    }

    /// A tensor whose gradient is wanted.
    pub(super) fn leaf(values: impl Into<Buffer>, shape: &[usize]) -> Self {
        Self::make(Storage::Host(values.into()), shape, (true, true))
    }

    fn make(values: Storage, shape: &[usize], (tracked, leaf): (bool, bool)) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values do not fill {shape:?}");
        Self(Arc::new(Inner { values, shape: shape.to_vec(), tracked, leaf }))
    }

    /// The same, tracked if the result of tracked operands.
    pub(super) fn tracked_if(self, tracked: bool) -> Self {
        let mut inner = self.0;
        if inner.tracked != tracked {
            let Some(own) = Arc::get_mut(&mut inner) else {
                let values = match &inner.values {
                    Storage::Host(values) => Storage::Host(Buffer::copy(values)),
                    Storage::Device(array) => Storage::Device(array.clone()),
                    Storage::Late(late) => Storage::Host(Buffer::copy(late.values())),
                };
                return Self::make(values, &inner.shape, (tracked, false));
            };
            own.tracked = tracked;
        }
        Self(inner)
    }

    /// Whether a gradient is wanted.
    pub(super) fn tracked(&self) -> bool {
        self.0.tracked
    }

    /// Whether it is a parameter.
    pub(super) fn is_leaf(&self) -> bool {
        self.0.leaf
    }

    /// Whether both are one and the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All values.
    ///
    /// # Panics
    /// If they lie on a device: `apply` gives those to operations of the device alone.
    pub(super) fn values(&self) -> &[f32] {
        match &self.0.values {
            Storage::Host(values) => values,
            Storage::Late(late) => late.values(),
            Storage::Device(_) => panic!("values on a device, read in memory"),
        }
    }

    /// Whether the values lie on a device.
    pub(super) fn is_on_device(&self) -> bool {
        matches!(self.0.values, Storage::Device(_))
    }

    /// The values on a device.
    pub(super) fn array(&self) -> Result<&Array> {
        match &self.0.values {
            Storage::Device(array) => Ok(array),
            Storage::Host(_) | Storage::Late(_) => bail!("an operand is not on the device"),
        }
    }

    /// What they are made of, if they are formed late.
    pub(super) fn late(&self) -> Option<&Late> {
        match &self.0.values {
            Storage::Late(late) => Some(late),
            Storage::Host(_) | Storage::Device(_) => None,
        }
    }

    /// The values to be changed: in place if nobody else has them.
    pub(super) fn into_buffer(self) -> Buffer {
        match Arc::try_unwrap(self.0) {
            Ok(Inner { values: Storage::Host(values), .. }) => values,
            Ok(Inner { values: Storage::Late(late), .. }) => late.into_buffer(),
            Ok(inner) => Buffer::copy(Self(Arc::new(inner)).values()),
            Err(shared) => Buffer::copy(Self(shared).values()),
        }
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.0.values.len()
    }

    /// Extents, outermost first.
    pub(super) fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// The extents of a tensor of `N` dimensions.
    pub(super) fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        match self.shape().try_into() {
            Ok(dims) => Ok(dims),
            Err(_) => bail!("shape {:?} has not {N} dimensions", self.shape()),
        }
    }
}
