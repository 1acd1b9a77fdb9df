//! What the operations work on: shared, immutable f32 values with a shape.

use super::EngineError;
use super::buffer::Buffer;
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
struct Inner {
    values: Buffer,
    shape: Vec<usize>,
    tracked: bool,
    leaf: bool,
}

impl Tensor {
    /// A constant. Lengths that do not fit the shape are a mistake in the caller.
    pub(super) fn new(values: impl Into<Buffer>, shape: &[usize]) -> Self {
        Self::make(values.into(), shape, (false, false))
    }

    /// A tensor whose gradient is wanted.
    pub(super) fn leaf(values: impl Into<Buffer>, shape: &[usize]) -> Self {
        Self::make(values.into(), shape, (true, true))
    }

    fn make(values: Buffer, shape: &[usize], (tracked, leaf): (bool, bool)) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values do not fill {shape:?}");
        Self(Arc::new(Inner { values, shape: shape.to_vec(), tracked, leaf }))
    }

    /// The same, tracked if the result of tracked operands.
    pub(super) fn tracked_if(self, tracked: bool) -> Self {
        let mut inner = self.0;
        if inner.tracked != tracked {
            let Some(own) = Arc::get_mut(&mut inner) else {
                return Self::make(Buffer::copy(&inner.values), &inner.shape, (tracked, false));
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
    pub(super) fn values(&self) -> &[f32] {
        &self.0.values
    }

    /// The values to be changed: in place if nobody else has them.
    pub(super) fn into_buffer(self) -> Buffer {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => inner.values,
            Err(shared) => Buffer::copy(&shared.values),
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
